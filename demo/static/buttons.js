// Every button with data-index says which one was pressed.
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-index]');
  if (button) trigger('select', {index: +button.dataset.index});
});
