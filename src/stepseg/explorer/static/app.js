// Start: read the file, build the controls, and redraw whenever the state changes.

async function start() {
  const common = readJson("common");
  const find = (id) => document.getElementById(id);
  const page = {common, state: readHash(location.hash, common), images: [], view: null, busy: true};
  let drawing = 0, saving = 0, speaking = 0, shown = -1;

  page.change = (values) => {
    Object.assign(page.state, values);
    if ("image" in values) page.state.cell = -1;
    schedule();
  };

  function schedule() {
    page.busy = true;
    cancelAnimationFrame(drawing);
    drawing = requestAnimationFrame(() => refresh().catch(fail));
  }

  async function refresh() {
    page.busy = true;
    const {state} = page, index = state.image;
    page.images[index] ||= readImage(index, common);
    const image = await page.images[index];
    if (page.state !== state || state.image !== index) return;  // a later call is on its way
    if (state.cell >= image.rows * image.columns) state.cell = -1;
    page.view = {common, image, state, result: evaluate(state, image, common)};
    if (shown !== index) showImage(image, index);
    refreshControls();
    refreshMerging(page);
    refreshExits(page);
    refreshResults(page);
    refreshRuns(page);
    refreshLegend(page);
    refreshCell(page);
    draw();
    clearTimeout(saving);
    saving = setTimeout(() => history.replaceState(null, "", writeHash(state)), 150);
    speak("summary", summaryOf(page.view));
    page.busy = false;
    document.body.dataset.ready = "1";
  }

  function draw() {
    if (page.view) drawView(find("canvas"), page.view);
  }

  function speak(id, text) {
    clearTimeout(speaking);
    speaking = setTimeout(() => { if (find(id).textContent !== text) find(id).textContent = text; }, 500);
  }

  function showImage(image, index) {
    shown = index;
    find("image-name").textContent = `${image.name}, ${image.width} × ${image.height} px, ${image.rows} × ${image.columns} cells of ${common.costs.patch} px`;
    find("canvas").style.aspectRatio = `${image.width} / ${image.height}`;
    find("canvas").setAttribute("aria-label",
      `${image.name}. Arrow keys move from cell to cell, Escape forgets the cell.`);
    document.querySelectorAll("#thumbnails button").forEach((button, place) =>
      button.setAttribute("aria-pressed", String(place === index)));
  }

  function refreshControls() {
    const {state} = page;
    document.querySelectorAll("[name=layer]").forEach((radio) => { radio.checked = radio.value === state.layer; });
    find("swipe").value = state.swipe;
    find("split").value = state.split;
    find("split-row").hidden = find("handle").hidden = state.swipe === "none";
    find("handle").style.left = `${state.split}%`;
    find("opacity").value = state.opacity;
    find("opacity").setAttribute("aria-valuetext", `${state.opacity} percent`);
    find("outlines").checked = state.outlines;
    find("command").textContent = [common.command, overrides(state, common)].filter(Boolean).join(" ");
  }

  buildPage(page, draw);
  addEventListener("hashchange", (event) => {
    clearTimeout(saving);
    page.state = readHash(new URL(event.newURL).hash, common);
    schedule();
  });
  await refresh();
  window.explorer = {
    page, common, mergeWindows, tokensOf, walkExits, countMacs, sum, evaluate, readHash, writeHash, overrides,
    readImage: (index) => readImage(index, common),
  };
}

function buildPage(page, draw) {
  const {common, change} = page;
  const find = (id) => document.getElementById(id);
  document.title = `${common.title} – threshold explorer`;
  find("title").textContent = common.title;
  const layers = Object.entries(LAYERS).filter(([name]) =>
    (name !== "superpatches" || common.windows.length) && (name !== "exits" || common.heads.length));
  find("layers").append(...layers.map(([value, {name}]) => {
    const radio = element("input", {type: "radio", name: "layer", value, id: `layer-${value}`});
    radio.addEventListener("change", () => change({layer: value}));
    return element("label", {htmlFor: radio.id}, radio, element("span", {}, name));
  }));
  find("swipe").append(...layers.map(([value, {name}]) => element("option", {value}, name)));
  find("swipe").addEventListener("change", (event) => change({swipe: event.target.value}));
  for (const key of ["split", "opacity"])
    find(key).addEventListener("input", (event) => change({[key]: Number(event.target.value)}));
  find("outlines").addEventListener("change", (event) => change({outlines: event.target.checked}));
  if (common.images.length > 1) buildThumbnails(page);
  if (common.windows.length) buildMerging(page);
  if (common.heads.length) buildExits(page);
  find("merging").hidden = !common.windows.length;
  find("exits").hidden = !common.heads.length;
  find("to-paper").addEventListener("click", () => change(paperSettings(common)));
  find("to-own").addEventListener("click", () => change(ownSettings(common)));
  find("presets").hidden = !common.windows.length && !common.heads.length;
  find("go-nearest").addEventListener("click", () => change(settingOf(page.view.result.nearest, page)));
  fill("notes", ...common.notes.map((note) => element("p", {}, note)));
  buildClasses(common);
  buildCanvas(page, draw);
  buildCopy();
  buildTheme(draw);
}

function buildThumbnails(page) {
  document.getElementById("thumbnails").append(...page.common.images.map(({name, thumbnail}, index) => {
    const button = element("button", {type: "button", title: name}, element("img", {src: thumbnail, alt: name}));
    button.addEventListener("click", () => page.change({image: index}));
    return button;
  }));
}

function buildCanvas(page, draw) {
  const canvas = document.getElementById("canvas"), handle = document.getElementById("handle");
  const point = (event) => {
    const cell = cellAt(event, canvas, page.view.image, page.common.costs.patch);
    if (cell >= 0 && cell !== page.state.cell) page.change({cell});
  };
  canvas.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch" && page.view) point(event); });
  canvas.addEventListener("pointerdown", (event) => { if (page.view) point(event); });
  canvas.addEventListener("keydown", (event) => {
    if (!page.view || event.altKey || event.ctrlKey || event.metaKey) return;
    const cell = cellByKey(event.key, page.state.cell, page.view.image);
    if (cell === null) return;
    event.preventDefault();
    page.change({cell});
    setTimeout(() => { document.getElementById("cell-status").textContent = cellSentence(page.view); }, 60);
  });
  handle.addEventListener("pointerdown", (event) => { handle.setPointerCapture(event.pointerId); event.preventDefault(); });
  handle.addEventListener("pointermove", (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const box = canvas.getBoundingClientRect();
    const split = Math.round(1000 * (event.clientX - box.left) / box.width) / 10;
    page.change({split: Math.min(100, Math.max(0, split))});
  });
  new ResizeObserver(draw).observe(canvas);
}

function buildCopy() {
  const button = document.getElementById("copy"), command = document.getElementById("command");
  button.addEventListener("click", async () => {
    let done = true;
    try {
      await navigator.clipboard.writeText(command.textContent);
    } catch {
      getSelection().selectAllChildren(command);  // without permission: selected, ready to copy
      done = false;
    }
    document.getElementById("copied").textContent = done ? "Copied." : "Selected: press Ctrl+C.";
    setTimeout(() => { document.getElementById("copied").textContent = ""; }, 3000);
  });
}

function buildTheme(draw) {
  const button = document.getElementById("theme"), root = document.documentElement;
  button.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    button.textContent = dark ? "Dark colours" : "Light colours";
    draw();
  });
  if (matchMedia("(prefers-color-scheme: dark)").matches) button.textContent = "Light colours";
}

function fail(error) {
  const box = document.getElementById("failure");
  box.hidden = false;
  box.textContent = typeof DecompressionStream === "undefined"
    ? "This page needs a browser of 2023 or later."
    : `This page cannot show its data: ${error.message}`;
  console.error(error);
}

start().catch(fail);
