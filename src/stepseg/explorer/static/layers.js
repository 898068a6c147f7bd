// What can be drawn over the image. Every layer paints onto a context in image pixels.

const EXIT_COLOURS = ["#7c3aed", "#06b6d4", "#f59e0b", "#ec4899", "#84cc16"];

const LAYERS = {
  superpatches: {name: "Superpatches", paint: paintSuperpatches},
  exits: {name: "Exit stage", paint: paintExits},
  step: {name: "STEP map", paint: (context, view) => paintMap(context, view, view.result.nearest)},
  dense: {name: "Dense map", paint: (context, view) => paintMap(context, view, view.image.runs[0])},
  difference: {name: "Difference", paint: paintDifference},
  image: {name: "Image", paint: () => {}},
};

function windowColour(window, common) {
  return `rgb(${common.windowColours[common.windows.indexOf(window)]})`;
}

function exitColour(index) {
  return EXIT_COLOURS[index % EXIT_COLOURS.length];
}

function tokenRectangles(view, each) {
  const {layout} = view.result, {columns} = view.image, {patch} = view.common.costs;
  layout.anchors.forEach((cell, token) => {
    const length = layout.side[cell] * patch;
    each(token, cell % columns * patch, Math.floor(cell / columns) * patch, length);
  });
}

function paintSuperpatches(context, view) {
  tokenRectangles(view, (token, x, y, length) => {
    const window = view.result.layout.side[view.result.layout.anchors[token]];
    if (window === 1) return;
    context.fillStyle = windowColour(window, view.common);
    context.fillRect(x, y, length, length);
  });
}

function paintExits(context, view) {
  const exits = view.result.active.length;
  tokenRectangles(view, (token, x, y, length) => {
    if (view.result.exit[token] === exits) return;  // what stays is left as it is
    context.fillStyle = exitColour(view.result.exit[token]);
    context.fillRect(x, y, length, length);
  });
}

function paintMap(context, view, run) {
  run.drawn ||= pixels(view.image.shown, (index, colour) => {
    colour.set(view.common.palette[run.map[index]]);
    colour[3] = 255;
  });
  drawScaled(context, run.drawn, view.image);
}

function paintDifference(context, view) {
  const run = view.result.nearest, dense = view.image.runs[0];
  run.difference ||= pixels(view.image.shown, (index, colour) => {
    const differs = run.map[index] !== dense.map[index];
    if (differs) colour.set(view.common.differenceColour);
    colour[3] = differs ? 255 : 150;  // what agrees is darkened
  });
  drawScaled(context, run.difference, view.image);
}

function pixels([height, width], paint) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const data = new ImageData(width, height);
  for (let index = 0; index < width * height; index++)
    paint(index, data.data.subarray(4 * index, 4 * index + 4));
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}

function drawScaled(context, canvas, image) {
  context.imageSmoothingEnabled = false;
  context.drawImage(canvas, 0, 0, image.width, image.height);
}
