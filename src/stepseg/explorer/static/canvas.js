// Drawing the image with its layers, the swipe and the chosen cell.

function drawView(canvas, view) {
  const {image, state} = view;
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(width * image.height / image.width);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  const scale = width / image.width;
  context.setTransform(scale, 0, 0, height / image.height, 0, 0);  // to the last row of pixels
  context.clearRect(0, 0, image.width, image.height);
  paintLayer(context, view, state.layer, scale);
  if (state.swipe !== "none") {
    context.save();
    context.beginPath();
    const x = image.width * state.split / 100;
    context.rect(x, 0, image.width - x, image.height);
    context.clip();
    paintLayer(context, view, state.swipe, scale);
    context.restore();
  }
  drawCell(context, view, scale);
}

function paintLayer(context, view, name, scale) {
  const {image, state} = view;
  context.globalAlpha = 1;
  context.imageSmoothingEnabled = true;
  context.drawImage(image.picture, 0, 0, image.width, image.height);
  context.globalAlpha = state.opacity / 100;
  LAYERS[name].paint(context, view);
  context.globalAlpha = 1;
  if (state.outlines && (name === "superpatches" || name === "exits")) outline(context, view, scale);
}

/** A thin light line with a dark one beside it, so that it shows on every picture. */
function outline(context, view, scale) {
  const light = new Path2D(), dark = new Path2D(), pixel = 1 / scale;
  tokenRectangles(view, (token, x, y, length) => {
    light.moveTo(x, y + length); light.lineTo(x, y); light.lineTo(x + length, y);
    dark.moveTo(x + pixel, y + length); dark.lineTo(x + pixel, y + pixel);
    dark.lineTo(x + length, y + pixel);
  });
  context.lineWidth = pixel;
  context.strokeStyle = "rgb(0 0 0 / 0.35)";
  context.stroke(dark);
  context.strokeStyle = "rgb(255 255 255 / 0.75)";
  context.stroke(light);
}

function drawCell(context, view, scale) {
  const {image, state, result} = view;
  if (state.cell < 0) return;
  const {patch} = view.common.costs, {columns} = image;
  const box = (cell, length, colour, width) => {
    context.strokeStyle = colour;
    context.lineWidth = width / scale;
    context.strokeRect(cell % columns * patch, Math.floor(cell / columns) * patch, length, length);
  };
  const anchor = result.layout.anchors[result.layout.ofCell[state.cell]];
  const length = result.layout.side[anchor] * patch;
  box(anchor, length, "#000", 5);
  box(anchor, length, "#fff", 2.5);
  if (length > patch) box(state.cell, patch, "#fff", 1);
}

function cellAt(event, canvas, image, patch) {
  const box = canvas.getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left) / box.width * image.width / patch);
  const y = Math.floor((event.clientY - box.top) / box.height * image.height / patch);
  if (x < 0 || y < 0 || x >= image.columns || y >= image.rows) return -1;
  return y * image.columns + x;
}

/** The cell that a key leads to, or null for other keys. */
function cellByKey(key, cell, {rows, columns}) {
  const moves = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
  if (key === "Escape") return -1;
  if (key === "Home") return 0;
  if (key === "End") return rows * columns - 1;
  if (!moves[key]) return null;
  if (cell < 0) return Math.floor(rows / 2) * columns + Math.floor(columns / 2);
  const y = Math.min(rows - 1, Math.max(0, Math.floor(cell / columns) + moves[key][0]));
  const x = Math.min(columns - 1, Math.max(0, cell % columns + moves[key][1]));
  return y * columns + x;
}
