/* Nuclei for the viewer, in the form in which `viewer/nuclei.py` writes them to its files. */

const CHUNK_UM = 1024;
const GRID_UM = 64;
const BINS = 20;
const LEVELS = 200;
const SAMPLE = 60000;
const SAFE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000"];

const levelOf = (score) => Math.min(Math.floor(score * LEVELS + 1e-4), LEVELS - 1);

/* Index of the likeliest class of nucleus `i`. */
export function labelOf({ prob }, i, n) {
  const own = prob.subarray(i * n, (i + 1) * n);
  return own.indexOf(own.reduce((most, each) => Math.max(most, each)));
}

/* What the viewer needs to know: `muse.slide`. */
export function describe({ file, info, card, image, run = null }) {
  const nuclei = run?.nuclei ?? { n: 0, nRays: card.n_rays };
  const classes = card.classes.map((kind, k) => ({ ...kind, safe_color: SAFE[k % SAFE.length] }));
  return {
    slide_id: file.name.replace(/\.[^.]+$/, ""), fingerprint: info.fingerprint,
    checksum: JSON.stringify([card.name, info.mpp, run?.found.box, nuclei.n]), model: card.name,
    size_px: info.size, mpp: info.mpp, offset_px: [0, 0], scanned_px: [0, 0, ...info.size],
    threshold: card.threshold, classes, image, gallery: [], layers: [],
    n_nuclei: nuclei.n, n_left_out: 0,
    chunks: { side_um: CHUNK_UM, n_rays: nuclei.nRays, index: [] },
  };
}

/* A box of level-0 px as an area to draw over the image. */
export function layersOf(name, box) {
  if (!box) return [];
  const [left, top, right, bottom] = box;
  return [{ name, color: "#555555", rings: [[left, top, right, top, right, bottom, left, bottom]] }];
}

/* Send nuclei to the viewer, by squares. */
export function sendNuclei(slide, nuclei) {
  const squares = new Map();
  for (let i = 0; i < nuclei.n; i++) {
    const key = [0, 1].map((k) => Math.floor(nuclei.xy[2 * i + k] / CHUNK_UM)).join("_");
    if (!squares.has(key)) squares.set(key, []);
    squares.get(key).push(i);
  }
  for (const [key, members] of squares) {
    const { scale, bytes } = packSquare(slide, nuclei, key.split("_").map(Number), members);
    slide.chunks.index.push([...key.split("_").map(Number), members.length]);
    muse.receive(`nuclei/${key}`, scale, bytes);
  }
}

function packSquare(slide, nuclei, square, members) {
  const { nRays, xy, rays, score, prob } = nuclei;
  const n = members.length;
  const bytes = new Uint8Array(n * (11 + nRays));
  const of = (i) => rays.subarray(i * nRays, (i + 1) * nRays);
  const longest = members.reduce((most, i) => of(i).reduce((a, b) => Math.max(a, b), most), 0.01);
  const rows = new Uint32Array(bytes.buffer, 0, n);
  const places = [4, 6].map((at) => new Uint16Array(bytes.buffer, at * n, n));
  members.forEach((i, k) => {
    const label = labelOf(nuclei, i, slide.classes.length);
    rows[k] = i;
    places.forEach((place, axis) => {
      place[k] = (xy[2 * i + axis] / CHUNK_UM - square[axis]) * 65536;
    });
    bytes[8 * n + k] = label;
    bytes[9 * n + k] = levelOf(score[i]);
    bytes[10 * n + k] = Math.round(255 * prob[i * slide.classes.length + label]);
    bytes.set(of(i).map((ray) => Math.round((ray / longest) * 255)), 11 * n + k * nRays);
  });
  return { scale: longest / 255, bytes };
}

/* Send the grid of counts and a sample of all nuclei to the viewer. */
export function sendOverview(slide, { n, xy, score, ...nuclei }) {
  const size = slide.size_px.map((px, i) => px * slide.mpp[i]);
  const [columns, rows] = size.map((um) => Math.max(Math.ceil(um / GRID_UM), 1));
  const nKinds = (slide.classes.length + 1) * BINS;
  const histogram = Array.from({ length: slide.classes.length + 1 }, () => new Array(BINS).fill(0));
  const cells = new Map();
  const step = Math.max(Math.ceil(n / SAMPLE), 1);
  const nSample = Math.ceil(n / step);
  const sample = new Uint8Array(6 * nSample);
  const places = [0, 2].map((at) => new Uint16Array(sample.buffer, at * nSample, nSample));
  for (let i = 0; i < n; i++) {
    const label = labelOf(nuclei, i, slide.classes.length);
    const bin = Math.floor((levelOf(score[i]) * BINS) / LEVELS);
    histogram[label][bin]++;
    const cell = Math.floor(xy[2 * i + 1] / GRID_UM) * columns + Math.floor(xy[2 * i] / GRID_UM);
    if (!cells.has(cell)) cells.set(cell, new Uint8Array(nKinds));
    const own = cells.get(cell);
    own[label * BINS + bin] = Math.min(own[label * BINS + bin] + 1, 255);
    if (i % step) continue;
    const k = i / step;
    places.forEach((place, axis) => (place[k] = (xy[2 * i + axis] / size[axis]) * 65535));
    sample[4 * nSample + k] = label;
    sample[5 * nSample + k] = levelOf(score[i]);
  }
  const order = [...cells.keys()].sort((a, b) => a - b);
  const counts = new Uint8Array(order.length * nKinds);
  order.forEach((cell, k) => counts.set(cells.get(cell), k * nKinds));
  slide.overview = { cell_um: GRID_UM, columns, rows, n_cells: order.length, n_sample: nSample, histogram };
  return [new Uint8Array(Uint32Array.from(order).buffer), counts, sample];
}
