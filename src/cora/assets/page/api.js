// Requests to the service. Every failure becomes an Error whose message a user can read.

export class TokenNeeded extends Error {}

async function answered(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer. Is it still running?");
  }
}

async function send(path, options, token) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await answered(path, { ...options, headers });
  if (response.ok) return response.json();
  const said = await response.json().then((body) => body.detail, () => "");
  if (response.status === 401) throw new TokenNeeded("This service asks for its token.");
  if (response.status === 429 || response.status === 503) {
    const seconds = response.headers.get("Retry-After");
    throw new Error(`The service is busy. Try again${seconds ? ` in ${seconds} s` : " later"}.`);
  }
  if (response.status === 504) throw new Error("The model took too long. Try fewer names or a smaller image.");
  throw new Error(said ? `That did not work: ${said}` : `That did not work (error ${response.status}).`);
}

export function health() {
  return send("health", {});
}

// One of the images that come with the page, as a file.
export async function example(path, signal) {
  const response = await answered(path, { signal });
  if (!response.ok) throw new Error(`That did not work (error ${response.status}).`);
  return new File([await response.blob()], path.split("/").pop(), { type: "image/jpeg" });
}

// `options`: `lowest`, a score so low that the slider needs no further request; `oneName`; `distractors`, null for the
// model's own choice. Without names the service chooses what it looks for.
export function detect(file, names, options, token, signal) {
  const form = new FormData();
  form.append("images", file);
  if (names.length) form.append("classes", names.join(","));
  form.append("score", String(options.lowest));
  if (options.oneName) form.append("class_agnostic", "true");
  if (options.distractors) form.append("distractors", options.distractors);
  return send("detect", { method: "POST", body: form, signal }, token);
}

// Regions like `wanted`, the fields of a search.
export function search(wanted, token, signal) {
  const form = new FormData();
  for (const [name, value] of Object.entries({ ...wanted, top: 12, per_picture: 4, thumbnails: true })) {
    form.append(name, value instanceof Blob ? value : String(value));
  }
  return send("search", { method: "POST", body: form, signal }, token);
}
