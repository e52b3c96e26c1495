// The page of a password: logs in, and opens the page.
const form = document.querySelector("form");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await fetch("login", { method: "POST", body: new FormData(form) });
  if (answer.ok) location.reload();
  else document.getElementById("told").textContent = "This user and password are not known here.";
});
