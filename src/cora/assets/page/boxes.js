// Boxes over the image and the list beside it. Positions are shares of the image, so they fit at any size.

function paint(element, colour) {
  element.style.setProperty("--colour", colour.box);
  element.style.setProperty("--letters", colour.text);
}

// Of a class that the service gives no colour.
const PLAIN = { box: "#808080", text: "#000000" };

const percent = (value) => `${(100 * value).toFixed(3)}%`;

export class Boxes {
  // `choose(detection)` is called when a box is clicked, or Enter pressed on it.
  constructor(layer, list, choose) {
    this.layer = layer;
    this.list = list;
    this.choose = choose;
    this.items = [];
    this.layer.addEventListener("keydown", (event) => this.key(event));
  }

  // Detections best first, and the colours of their classes by name, as the service sends both.
  set(found, colours) {
    this.items = found.detections.map(
      (detection) => this.item(detection, colours[detection.name] ?? PLAIN, found.width, found.height));
    // Small boxes lie on top of large ones, or they could not be clicked.
    const bySize = [...this.items].sort((one, other) => other.area - one.area);
    bySize.forEach((item, place) => { item.button.style.zIndex = String(place + 1); });
    // Labels are no part of their boxes: the frames of other boxes would go through them.
    this.layer.replaceChildren(...this.items.map((item) => item.button), ...this.items.map((item) => item.label));
    this.list.replaceChildren(...this.items.map((item) => item.row));
  }

  item(detection, colour, width, height) {
    const [left, top, right, bottom] = detection.box;
    const text = `${detection.name} ${detection.score.toFixed(2)}`;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "box";
    button.setAttribute("role", "option");
    button.setAttribute("aria-selected", "false");
    button.setAttribute("aria-label", text);
    button.tabIndex = -1;
    button.style.left = percent(left / width);
    button.style.top = percent(top / height);
    button.style.width = percent((right - left) / width);
    button.style.height = percent((bottom - top) / height);
    paint(button, colour);

    const label = document.createElement("span");
    label.className = "label";
    label.setAttribute("aria-hidden", "true");
    label.textContent = text;
    label.style.top = percent(top / height);
    label.classList.toggle("inside", top / height < 0.07);
    // To the left of the right edge where it would run out of the image.
    if (left / width > 0.7) label.style.right = percent(1 - right / width);
    else label.style.left = percent(left / width);
    paint(label, colour);

    const row = document.createElement("li");
    paint(row, colour);
    const swatch = document.createElement("i");
    const name = document.createElement("b");
    name.textContent = detection.name;
    const score = document.createElement("span");
    score.textContent = detection.score.toFixed(2);
    row.append(swatch, name, score);

    const item = { detection, button, label, row, area: (right - left) * (bottom - top) };
    const near = (on) => [button, label, row].forEach((element) => element.classList.toggle("near", on));
    for (const element of [button, row]) {
      element.addEventListener("pointerenter", () => near(true));
      element.addEventListener("pointerleave", () => near(false));
      element.addEventListener("click", () => this.select(item));
    }
    button.addEventListener("focus", () => near(true));
    button.addEventListener("blur", () => near(false));
    return item;
  }

  // Shows the boxes above a score; returns them.
  show(threshold) {
    const shown = this.shown(threshold);
    for (const item of this.items) {
      const on = item.detection.score >= threshold;
      for (const element of [item.button, item.label, item.row]) element.hidden = !on;
      item.button.tabIndex = -1;
    }
    // One stop for the Tab key; arrow keys go on from there.
    const stop = shown.find((item) => item.button === document.activeElement) ?? shown[0];
    if (stop) stop.button.tabIndex = 0;
    this.placeLabels();
    return shown.map((item) => item.detection);
  }

  // The best boxes keep their labels; one that would cover a better one's is marked.
  placeLabels() {
    const placed = [];
    for (const { button, label } of this.items) {
      if (button.hidden) continue;
      const mine = label.getBoundingClientRect();
      const covers = placed.some((other) => mine.left < other.right && other.left < mine.right
        && mine.top < other.bottom && other.top < mine.bottom);
      label.classList.toggle("covered", covers);
      if (!covers) placed.push(mine);
    }
  }

  shown(threshold) {
    return this.items.filter((item) => item.detection.score >= threshold);
  }

  select(item) {
    for (const other of this.items) {
      const on = other === item;
      other.button.setAttribute("aria-selected", String(on));
      for (const element of [other.label, other.row]) element.classList.toggle("chosen", on);
    }
    this.choose(item.detection);
  }

  key(event) {
    const visible = this.items.filter((item) => !item.button.hidden);
    const at = visible.findIndex((item) => item.button === document.activeElement);
    if (at < 0) return;
    const last = visible.length - 1;
    const next = {
      ArrowRight: Math.min(at + 1, last), ArrowDown: Math.min(at + 1, last),
      ArrowLeft: Math.max(at - 1, 0), ArrowUp: Math.max(at - 1, 0), Home: 0, End: last,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    visible[at].button.tabIndex = -1;
    visible[next].button.tabIndex = 0;
    visible[next].button.focus();
  }
}
