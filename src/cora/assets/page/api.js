// Requests to the service. Every failure becomes an Error whose message a user can read.

export class TokenNeeded extends Error {}

async function send(path, options, token) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer. Is it still running?");
  }
  if (response.ok) return response.json();
  const said = await response.json().then((body) => body.detail, () => "");
  if (response.status === 401) throw new TokenNeeded("This service asks for its token.");
  if (response.status === 429 || response.status === 503) {
    const seconds = response.headers.get("Retry-After");
    throw new Error(`The service is busy. Try again${seconds ? ` in ${seconds} s` : " later"}.`);
  }
  if (response.status === 504) throw new Error("The model took too long. Try fewer names or a smaller picture.");
  throw new Error(said ? `That did not work: ${said}` : `That did not work (error ${response.status}).`);
}

export function health() {
  return send("health", {});
}

// All boxes down to a low score, so that the slider needs no further request.
export function detect(file, names, lowest, token, signal) {
  const form = new FormData();
  form.append("images", file);
  form.append("classes", names.join(","));
  form.append("score", String(lowest));
  return send("detect", { method: "POST", body: form, signal }, token);
}

export function searchAlike(file, box, token, signal) {
  const form = new FormData();
  form.append("image", file);
  form.append("box", box.join(","));
  form.append("top", "12");
  form.append("per_picture", "4");
  form.append("thumbnails", "true");
  return send("search", { method: "POST", body: form, signal }, token);
}
