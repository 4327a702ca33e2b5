import { TokenNeeded, detect, example, health, search } from "./api.js";
import { Boxes } from "./boxes.js";
import { saveDrawn, saveJson } from "./save.js";

const LOWEST = 0.01;
const at = (id) => document.getElementById(id);

const state = { file: null, result: null, service: null, threshold: null, own: null, lowest: LOWEST, looking: null, searching: null };
const boxes = new Boxes(at("boxes"), at("list"), chosen);

function tell(text) {
  at("status").textContent = text;
}

function complain(text) {
  at("problem").textContent = text;
  at("problem").hidden = !text;
  if (text) at("problem").scrollIntoView({ block: "nearest" });
}

function names() {
  return at("names").value.split(",").map((name) => name.trim()).filter(Boolean);
}

// What differs from the model's own choice; null where nothing does.
function distractors() {
  const wanted = at("everyday").checked;
  if (!state.service || wanted === state.service.distractors > 0) return null;
  return wanted ? "everyday" : "none";
}

// A new image: shown at once, its boxes come when names are there.
function take(file) {
  complain("");
  if (!file) return;
  if (file.type && !file.type.startsWith("image/")) {
    complain("That is no image. Choose a JPEG, PNG or WebP file.");
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
  at("picture-name").textContent = file.name || "Pasted image";
  at("picture-help").textContent = "choose, drop or paste another";
  at("result").hidden = true;
  at("alike").hidden = true;
  at("preview").hidden = false;
  document.querySelector("main").append(at("examples")); // out of the way
  URL.revokeObjectURL(at("image").src);
  at("image").src = at("preview-image").src = URL.createObjectURL(file);
  tell("");
  if (names().length) find();
  else at("names").focus();
}

// An image and class names at once. The focus goes to "Find", for the examples move down the page.
async function tryExample({ image, names: wanted }) {
  complain("");
  state.looking?.abort();
  const looking = state.looking = new AbortController();
  try {
    const file = await example(image, looking.signal);
    at("names").value = wanted;
    at("find").focus({ preventScroll: true });
    at("ask").scrollIntoView({ block: "nearest" });
    take(file);
  } catch (error) {
    failed(error);
  }
}

async function find() {
  complain("");
  const wanted = names();
  if (!state.file) {
    complain("Choose an image first.");
    at("picture").focus();
    return;
  }
  state.looking?.abort();
  state.searching?.abort();
  const looking = state.looking = new AbortController();
  // Not disabled, for that would take the keyboard's place away; pressing it again starts anew.
  at("ask").setAttribute("aria-busy", "true");
  at("alike").hidden = true;
  tell(wanted.length ? "Looking …" : "No class names: looking for everyday things …");
  const options = { lowest: LOWEST, oneName: at("one-name").checked, distractors: distractors() };
  try {
    present(await detect(state.file, wanted, options, at("token").value, looking.signal), wanted, options);
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

function present(answer, wanted, options) {
  const [found] = answer.images;
  state.result = {
    file: state.file.name || null, width: found.width, height: found.height, classes: wanted,
    distractors: answer.distractors, class_agnostic: options.oneName || Boolean(answer.built_in), ...found,
  };
  fit(found.width, found.height);
  at("image").alt = wanted.length ? `The image with boxes for ${wanted.join(", ")}` : "The image with boxes for everyday things";
  at("preview").hidden = true;
  at("result").hidden = false;
  boxes.set(found, answer.colours);
  state.lowest = answer.score;
  // Other class names can have another threshold than the one that the service begins with.
  state.own = answer.usual_score ?? state.service?.score ?? null;
  const best = found.detections[0]?.score ?? 0;
  let threshold = state.threshold ?? state.own ?? Number(at("threshold").value);
  let note = answer.built_in ? ` Looked for ${answer.classes} everyday things.` : "";
  note += answer.distractors ? ` ${answer.distractors} distractors compete with your class names and are not reported.` : "";
  if (best && best < threshold) {
    threshold = Math.max(LOWEST, Math.floor(best * 100) / 100);
    note += ` The best score is ${best.toFixed(2)}, so the score threshold was lowered to show it.`;
  }
  at("threshold").value = String(threshold);
  show(note);
}

function show(note = "") {
  const threshold = Number(at("threshold").value);
  at("threshold-value").textContent = threshold.toFixed(2);
  if (!state.result) return;
  const shown = boxes.show(threshold).length;
  const all = state.result.detections.length;
  if (!all) {
    tell(`Nothing like that was found, down to a score of ${state.lowest.toFixed(2)}. Try other names.${note}`);
    return;
  }
  const own = threshold.toFixed(2) === state.own?.toFixed(2) ? ", the model's own" : "";
  const weaker = all - shown;
  const hidden = weaker
    ? ` ${weaker} weaker, down to ${state.lowest.toFixed(2)}, ${weaker === 1 ? "is" : "are"} hidden: move the slider to see more.`
    : "";
  tell(`${shown} of ${all} box${all === 1 ? "" : "es"} shown: score threshold ${threshold.toFixed(2)}${own}.${hidden}${note}`);
}

function chosen(detection) {
  if (!state.service?.search || !state.file) return;
  lookUp({ image: state.file, box: detection.box.join(",") }, `this ${detection.name}`);
}

// Searches the index, shows what it finds; `like` says what for.
async function lookUp(wanted, like) {
  complain("");
  state.searching?.abort();
  const searching = state.searching = new AbortController();
  tell(`Searching for regions like ${like} …`);
  try {
    const answer = await search(wanted, at("token").value, searching.signal);
    const count = answer.regions.length;
    at("alike-title").textContent = `Regions like ${like}`;
    at("hits").replaceChildren(...answer.regions.map(hit));
    at("alike").hidden = !count;
    tell(count ? `${count} region${count === 1 ? "" : "s"} like ${like}, best first, below.` : "There is no region in the index.");
    if (!count) return;
    at("alike-title").focus({ preventScroll: true });
    at("alike").scrollIntoView({ block: "nearest" });
  } catch (error) {
    failed(error);
  }
}

function hit(region) {
  const entry = document.createElement("li");
  const picture = document.createElement(region.thumbnail ? "img" : "div");
  if (region.thumbnail) {
    picture.src = region.thumbnail;
    picture.alt = region.name ?? "region";
  } else {
    picture.textContent = "This image cannot be read any more.";
  }
  entry.append(picture);
  for (const text of [region.name, region.file, `similarity ${region.similarity.toFixed(2)}`]) {
    if (!text) continue;
    const line = document.createElement("p");
    line.textContent = text;
    entry.append(line);
  }
  return entry;
}

at("ask").addEventListener("submit", (event) => { event.preventDefault(); find(); });
at("picture").addEventListener("change", (event) => take(event.target.files[0]));
for (const id of ["one-name", "everyday"]) at(id).addEventListener("change", () => { if (state.result) find(); });
for (const button of document.querySelectorAll("#examples button")) {
  button.addEventListener("click", () => tryExample(button.dataset));
}
at("threshold").addEventListener("input", (event) => {
  state.threshold = Number(event.target.value);
  show();
});
at("download").addEventListener("click", () => {
  const least = Number(at("threshold").value);
  const detections = state.result.detections.filter((detection) => detection.score >= least);
  saveJson({ ...state.result, least_score: least, detections }, state.file);
});
at("save-image").addEventListener("click", () => {
  complain("");
  if (at("image").naturalWidth) saveDrawn(at("image"), at("boxes"), state.file).catch(failed);
  else complain("This browser cannot show that image, so it cannot draw on it. Save the JSON instead.");
});
at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const words = at("words").value.trim();
  if (words) lookUp({ text: words }, `“${words}”`);
  else {
    complain("Type what to search the index for.");
    at("words").focus();
  }
});
at("preview-image").addEventListener("load", ({ target }) => fit(target.naturalWidth, target.naturalHeight));
at("preview-image").addEventListener("error", () => {
  at("preview").hidden = true;
  if (state.file) complain("This browser cannot show that image. Choose a JPEG, PNG or WebP file.");
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
  at("everyday").checked = service.distractors > 0;
  if (service.built_in === false) at("names-help").textContent = `Class names, separated by commas. No names: the model's own ${service.classes}`;
  at("token-field").hidden = !service.token;
  at("search-help").hidden = at("index").hidden = !service.search;
}).catch(failed);
