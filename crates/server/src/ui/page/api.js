// The server's API: keys, errors in the server's own words, streamed answers.

import { $ } from "./dom.js";

const KEY = "zonda.key";

/** An error of the server or of the connection. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "", retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

const headers = () => {
  const key = sessionStorage.getItem(KEY);
  return key ? { authorization: `Bearer ${key}` } : {};
};

/** Asks for the key once, however many requests need it. */
let asking = null;

function askKey(why) {
  asking ??= new Promise((resolve) => {
    const dialog = $("key-dialog");
    $("key-why").textContent = why;
    $("key").value = "";
    const given = () => {
      sessionStorage.setItem(KEY, $("key").value.trim());
      dialog.returnValue = "given";
    };
    $("key-form").addEventListener("submit", given, { once: true });
    $("key-cancel").onclick = () => dialog.close("cancel");
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      $("key-form").removeEventListener("submit", given);
      asking = null;
      resolve(dialog.returnValue === "given" || sessionStorage.getItem(KEY) !== null && dialog.returnValue !== "cancel");
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

async function failure(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // Not ours: a proxy's page, say.
  }
  const message = error.message ?? `the server answered ${response.status} ${response.statusText}`;
  return new ApiError(message, {
    status: response.status,
    code: error.code ?? "",
    retryAfter: response.headers.get("retry-after"),
  });
}

/** A successful response. Asks for a key if one is needed. */
export async function request(path, { body, signal, quiet = false } = {}) {
  for (;;) {
    const sent = sessionStorage.getItem(KEY);
    let response;
    try {
      response = await fetch(path, {
        method: body === undefined ? "GET" : "POST",
        headers: body === undefined ? headers() : { ...headers(), "content-type": "application/json" },
        body: body === undefined ? undefined : JSON.stringify(body),
        cache: "no-store",
        signal,
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server can't be reached.", { code: "unreachable" });
    }
    if (response.ok) return response;
    const error = await failure(response);
    if (error.status !== 401 || quiet) throw error;
    if (sessionStorage.getItem(KEY) !== sent) continue;
    if (sent !== null) sessionStorage.removeItem(KEY);
    const why = sent === null
      ? "This server requires an API key. The page keeps it until this tab is closed."
      : "The server does not accept this key.";
    if (!(await askKey(why))) throw error;
  }
}

export const get = async (path, options) => (await request(path, options)).json();
export const post = async (path, body, options) => (await request(path, { ...options, body })).json();

/** The chunks of a streamed answer, as objects. Ends when the answer is complete, throws when it can't be. */
export async function* stream(path, body, signal) {
  const response = await request(path, { body: { ...body, stream: true, stream_options: { include_usage: true } }, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The connection was lost before the answer was complete.", { code: "cut" });
    }
    if (piece.done) throw new ApiError("The answer ended before it was complete.", { code: "cut" });
    const lines = (rest + piece.value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, { code: chunk.error.code });
      yield chunk;
    }
  }
}
