// What is on the screen, as files.

function save(blob, file, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${(file.name || "image").replace(/\.[^.]*$/, "")}${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

export function saveJson(content, file) {
  save(new Blob([JSON.stringify(content, null, 1) + "\n"], { type: "application/json" }), file, ".json");
}

// The image in full size with the boxes and labels that the layer over it shows, as much larger as the image is.
export async function saveDrawn(image, layer, file) {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const stage = layer.getBoundingClientRect();
  const scale = canvas.width / stage.width;
  const place = (element) => {
    const { left, top, width, height } = element.getBoundingClientRect();
    return [(left - stage.left) * scale, (top - stage.top) * scale, width * scale, height * scale];
  };
  const visible = (kind) => [...layer.querySelectorAll(kind)].map((element) => [element, getComputedStyle(element)])
    .filter(([, style]) => style.display !== "none" && style.visibility !== "hidden");
  const boxes = visible(".box").sort(([one], [other]) => one.style.zIndex - other.style.zIndex);
  for (const [box, style] of boxes) {
    const [left, top, width, height] = place(box);
    frame(context, left, top, width, height, -scale, "rgb(0 0 0 / .4)");
    frame(context, left, top, width, height, 2 * scale, style.borderTopColor);
  }
  context.textBaseline = "middle";
  for (const [label, style] of visible(".label")) {
    const [left, top, width, height] = place(label);
    context.fillStyle = style.backgroundColor;
    context.fillRect(left, top, width, height);
    context.fillStyle = style.color;
    context.font = `${parseFloat(style.fontSize) * scale}px ${style.fontFamily}`;
    context.fillText(label.textContent, left + parseFloat(style.paddingLeft) * scale, top + height / 2);
  }
  const png = file.type === "image/png";
  const blob = await new Promise((done) => { canvas.toBlob(done, png ? "image/png" : "image/jpeg", 0.92); });
  if (!blob) throw new Error("This browser cannot draw an image as large as that. Save the JSON instead.");
  save(blob, file, png ? "-boxes.png" : "-boxes.jpg");
}

// A line of a width on the inner side of a rectangle's edge, of a negative one on the outer side.
function frame(context, left, top, width, height, line, colour) {
  context.strokeStyle = colour;
  context.lineWidth = Math.abs(line);
  context.strokeRect(left + line / 2, top + line / 2, Math.max(0, width - line), Math.max(0, height - line));
}
