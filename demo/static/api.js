// Calls the server's API by Gradio's queue protocol: one stream of messages tells all calls of this tab where they stand.
// `call(name, ...values)` returns the answer; `follow(name, values, on)` also tells rank, start and what grows meanwhile.
// Every failure is an Error whose message is for people.

const session = Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join("");
const LOST = "The server cannot be reached. Is it still running? Try again.";
const waiting = new Map(), early = new Map();  // calls by event id; messages that came before their call was known
let stream = null;

async function send(path, body, type = "application/json") {
  const headers = type ? {"Content-Type": type} : {};
  const reply = await fetch(`gradio_api/${path}`, {method: "POST", headers, body}).catch(() => { throw new Error(LOST); });
  const text = await reply.text();
  let data = text;
  try { data = JSON.parse(text); } catch { /* an error in plain text */ }
  if (reply.ok) return data;
  const said = typeof data === "string" ? data : data?.detail ?? data?.error;
  throw new Error(typeof said === "string" && said ? said : `The server refused this (${reply.status}).`);
}

function listen() {
  if (stream) return;
  stream = new EventSource(`gradio_api/queue/data?session_hash=${session}`);
  stream.onmessage = event => hear(JSON.parse(event.data));
  stream.onerror = () => end(new Error(LOST));
}

function end(error) {
  stream?.close();
  stream = null;
  for (const on of waiting.values()) on.fail(error);
  waiting.clear();
}

function hear(message) {
  if (message.msg === "close_stream") {
    stream.close();
    stream = null;
    if (waiting.size) listen();
  } else if (message.msg === "unexpected_error" || message.msg === "server_stopped") {
    end(new Error(message.message || LOST));
  } else if (message.event_id) {
    const on = waiting.get(message.event_id);
    if (on) tell(on, message);
    else early.set(message.event_id, [...(early.get(message.event_id) || []), message]);
  }
}

function tell(on, message) {
  const failed = message.success === false, value = message.output?.data?.[0];
  if (message.msg === "estimation") on.rank?.(message.rank);
  else if (message.msg === "process_starts") on.start?.();
  else if (message.msg === "process_generating" && !failed) on.grow?.(on.last = value);
  else if (message.msg === "process_completed" || failed) {
    waiting.delete(on.id);
    if (failed) on.fail(new Error(message.output?.error || "This did not work, and the server says no more about it."));
    else on.done(value ?? on.last);
  }
}

export async function follow(name, values, on = {}) {
  const {event_id: id} = await send(`call/${name}`, JSON.stringify({data: values, session_hash: session}));
  return new Promise((done, fail) => {
    const call = {...on, id, done, fail};
    waiting.set(id, call);
    on.known?.(id);
    for (const message of early.get(id) || []) tell(call, message);
    early.delete(id);
    if (waiting.size) listen();
  });
}

export const call = (name, ...values) => follow(name, values);

// Takes a call out of the queue before it has begun.
export const withdraw = id => send("cancel", JSON.stringify({session_hash: session, fn_index: 0, event_id: id}));

// Uploads a file; returns its path on the server.
export async function upload(file) {
  const form = new FormData();
  form.append("files", file);
  return (await send("upload", form, ""))[0];
}
