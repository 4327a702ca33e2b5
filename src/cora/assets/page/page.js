import { TokenNeeded, detect, health, searchAlike } from "./api.js";
import { Boxes } from "./boxes.js";

const LOWEST = 0.01;
const at = (id) => document.getElementById(id);

const state = { file: null, result: null, service: null, looking: null, searching: null };
const boxes = new Boxes(at("boxes"), at("list"), chosen);

function tell(text) {
  at("status").textContent = text;
}

function complain(text) {
  at("problem").textContent = text;
  at("problem").hidden = !text;
}

function names() {
  return at("names").value.split(",").map((name) => name.trim()).filter(Boolean);
}

// A new picture: shown at once, its boxes come when names are there.
function take(file) {
  complain("");
  if (!file) return;
  if (file.type && !file.type.startsWith("image/")) {
    complain("That is no picture. Choose a JPEG, PNG or WebP file.");
    return;
  }
  const most = state.service?.limits.max_body_bytes;
  if (most && file.size > most) {
    complain(`That file is too large: ${(file.size / 2 ** 20).toFixed(0)} MiB, at most ${(most / 2 ** 20).toFixed(0)} fit.`);
    return;
  }
  state.looking?.abort();
  state.file = file;
  state.result = null;
  at("picture-name").textContent = file.name || "Pasted picture";
  at("picture-help").textContent = "choose, drop or paste another";
  at("result").hidden = true;
  at("alike").hidden = true;
  at("preview").hidden = false;
  URL.revokeObjectURL(at("image").src);
  at("image").src = at("preview-image").src = URL.createObjectURL(file);
  tell("");
  if (names().length) find();
  else at("names").focus();
}

async function find() {
  complain("");
  const wanted = names();
  if (!state.file) {
    complain("Choose a picture first.");
    at("picture").focus();
    return;
  }
  if (!wanted.length) {
    complain("Type what to look for: names, divided by commas.");
    at("names").focus();
    return;
  }
  state.looking?.abort();
  state.searching?.abort();
  const looking = state.looking = new AbortController();
  // Not disabled, for that would take the keyboard's place away; pressing it again starts anew.
  at("ask").setAttribute("aria-busy", "true");
  at("alike").hidden = true;
  tell("Looking …");
  try {
    const answer = await detect(state.file, wanted, LOWEST, at("token").value, looking.signal);
    present(answer.images[0], answer.colours, wanted, answer.distractors);
  } catch (error) {
    failed(error);
  } finally {
    if (state.looking === looking) at("ask").removeAttribute("aria-busy");
  }
}

// Preview and result are laid out alike, so that nothing jumps when the boxes come.
function fit(width, height) {
  document.body.style.setProperty("--ratio", String(width / height));
  document.body.style.setProperty("--width", String(width));
}

function failed(error) {
  if (error.name === "AbortError") return;
  tell("");
  if (error instanceof TokenNeeded) {
    at("token-field").hidden = false;
    at("token").focus();
  }
  complain(error.message);
}

function present(found, colours, wanted, distractors) {
  state.result = { file: state.file.name || null, width: found.width, height: found.height, classes: wanted, ...found };
  fit(found.width, found.height);
  at("image").alt = `The picture with boxes for ${wanted.join(", ")}`;
  at("preview").hidden = true;
  at("result").hidden = false;
  boxes.set(found, colours);
  const best = found.detections[0]?.score ?? 0;
  const slider = at("threshold");
  let note = distractors ? ` ${distractors} other names compete with yours and are not shown.` : "";
  if (best && best < Number(slider.value)) {
    slider.value = String(Math.max(LOWEST, Math.floor(best * 100) / 100));
    note += ` The best score is ${best.toFixed(2)}, so the least score was lowered to show it.`;
  }
  show(note);
}

function show(note = "") {
  const threshold = Number(at("threshold").value);
  at("threshold-value").textContent = threshold.toFixed(2);
  if (!state.result) return;
  const shown = boxes.show(threshold);
  const all = state.result.detections.length;
  const count = `${shown.length} of ${all} box${all === 1 ? "" : "es"} shown.`;
  tell(all ? count + note : "Nothing like that was found. Try other names.");
}

async function chosen(detection) {
  if (!state.service?.search || !state.file) return;
  complain("");
  state.searching?.abort();
  const searching = state.searching = new AbortController();
  tell(`Searching for regions like this ${detection.name} …`);
  try {
    const answer = await searchAlike(state.file, detection.box, at("token").value, searching.signal);
    const count = answer.regions.length;
    at("hits").replaceChildren(...answer.regions.map(hit));
    at("alike").hidden = !count;
    tell(count ? `${count} regions like it, below.` : "There is no region in the index.");
    if (!count) return;
    at("alike-title").focus();
    at("alike").scrollIntoView({ block: "nearest" });
  } catch (error) {
    failed(error);
  }
}

function hit(region) {
  const entry = document.createElement("li");
  if (region.thumbnail) {
    const image = document.createElement("img");
    image.src = region.thumbnail;
    image.alt = region.name ?? "region";
    entry.append(image);
  }
  for (const text of [region.name, region.file, `similarity ${region.similarity.toFixed(2)}`]) {
    if (!text) continue;
    const line = document.createElement("p");
    line.textContent = text;
    entry.append(line);
  }
  return entry;
}

function download() {
  if (!state.result) return;
  const least = Number(at("threshold").value);
  const detections = state.result.detections.filter((detection) => detection.score >= least);
  const text = JSON.stringify({ ...state.result, least_score: least, detections }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text + "\n"], { type: "application/json" }));
  link.download = `${(state.file.name || "picture").replace(/\.[^.]*$/, "")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

at("ask").addEventListener("submit", (event) => { event.preventDefault(); find(); });
at("picture").addEventListener("change", (event) => take(event.target.files[0]));
at("threshold").addEventListener("input", () => show());
at("download").addEventListener("click", download);
at("preview-image").addEventListener("load", ({ target }) => fit(target.naturalWidth, target.naturalHeight));
at("preview-image").addEventListener("error", () => {
  at("preview").hidden = true;
  if (state.file) complain("This browser cannot show that picture. Choose a JPEG, PNG or WebP file.");
});

document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (file) {
    event.preventDefault();
    take(file);
  }
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  take(event.dataTransfer.files[0]);
});

new ResizeObserver(() => boxes.placeLabels()).observe(at("boxes"));

health().then((service) => {
  state.service = service;
  if (!state.result) at("threshold").value = String(service.score);
  show();
  at("token-field").hidden = !service.token;
  at("search-help").hidden = !service.search;
}).catch(failed);
