// Reading what the file carries: compressed arrays in base64, one JSON element per image.

async function unpack(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Kind(await new Response(stream).arrayBuffer());
}

function readJson(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

/** One image with its arrays, and the token layouts of its recorded levels. */
async function readImage(index, common) {
  const image = readJson(`image-${index}`);
  const all = (texts, Kind) => Promise.all(texts.map((text) => unpack(text, Kind)));
  image.policy = {
    windows: common.windows,
    edgeWeight: common.edgeWeight,
    scores: await all(image.scores, Float32Array),
    edges: image.edges && await all(image.edges, Float32Array),
  };
  image.listening = await Promise.all(image.listening.map(async (packed, level) => {
    const {rows, columns} = image;
    const side = mergeWindows(common.levels[level].rule, image.policy, rows, columns);
    const layout = tokensOf(side, rows, columns);
    const heads = common.costs.heads.length, count = layout.count;
    const confidence = await unpack(packed.confidence, Float32Array);
    const classes = await unpack(packed.classes, Uint8Array);
    const others = await unpack(packed.others, Uint8Array);
    if (confidence.length !== heads * count)
      throw new Error(`level ${level}: ${confidence.length / heads} tokens recorded, ${count} here`);
    return {level, layout, heads: Array.from({length: heads}, (_, head) =>
      headRecords(head, count, confidence, classes, others))};
  }));
  await Promise.all(image.runs.map(async (run) => {
    run.exit = await unpack(run.exit, Uint8Array);
    run.map = await unpack(run.map, Uint8Array);
    run.layout = image.listening[run.level].layout;
  }));
  image.picture = await loadPicture(image.picture);
  return image;
}

function headRecords(head, count, confidence, classes, others) {
  const top = classes.length / confidence.length;
  const from = head * count, to = from + count;
  return {
    top,
    confidence: confidence.subarray(from, to),
    classes: classes.subarray(from * top, to * top),
    others: others.subarray(from * (top - 1), to * (top - 1)),
  };
}

async function loadPicture(uri) {
  const picture = new Image();
  picture.src = uri;
  await picture.decode();
  return picture;
}
