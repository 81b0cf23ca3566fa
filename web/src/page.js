/* The page: opens a file, finds its nuclei in workers, shows them in the viewer, and saves them. */

import { readCard } from "./card.js";
import { findDoubts, summarise, toCsv, toGeoJson } from "./output.js";
import { describe, layersOf, sendNuclei, sendOverview } from "./shown.js";

const { el } = muse;
const MOST_BOX_MM2 = 25;
const MOST_TISSUE_MM2 = 100;
const COARSEST = 2; // largest enlargement of a slide
const TILE_PX = 512;
const WORTH_GPU = 8; // windows from which the time to try the GPU is worth it
const POWERS = [["40x", 0.25], ["20x", 0.5], ["10x", 1]];
const LOCAL = "Nothing leaves this computer: the page has no access to the network.";
const TILES = "tiles"; // the worker that reads the image for the viewer
const AREA = "Searched area";
const panel = document.getElementById("panel");
const assets = new Map();
const helpers = {};
let file, info, model, box, run, isCancelled;
let isSearching = false;

/* Bytes that the build put into the page. */
function asset(id) {
  const unpack = async () => {
    const packed = new Blob([muse.decode(document.getElementById(id).textContent.trim())]);
    const stream = packed.stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  if (!assets.has(id)) assets.set(id, unpack());
  return assets.get(id);
}

/* A worker; `call` runs one of its functions. */
class Helper {
  static async start() {
    const source = new Blob([await asset("worker")], { type: "text/javascript" });
    const helper = new Helper();
    helper.worker = new Worker(URL.createObjectURL(source));
    helper.calls = new Map();
    helper.worker.onmessage = ({ data: { id, value, error } }) => {
      const { resolve, reject } = helper.calls.get(id);
      helper.calls.delete(id);
      if (error === undefined) resolve(value);
      else reject(new Error(error));
    };
    helper.worker.onerror = ({ message }) => {
      for (const { reject } of helper.calls.values()) reject(new Error(message));
    };
    return helper;
  }

  call(name, args = {}) {
    const id = Math.random();
    return new Promise((resolve, reject) => {
      this.calls.set(id, { resolve, reject });
      this.worker.postMessage({ id, name, args });
    });
  }
}

const howMany = () => Math.max(1, Math.min(navigator.hardwareConcurrency || 2, 8, navigator.deviceMemory || 4));

/* Worker number `k`, with the open file and the model. */
async function helper(k) {
  helpers[k] ??= Helper.start();
  const own = await helpers[k];
  if (own.file !== file) {
    own.file = file;
    await own.call("open", { file });
  }
  if (own.mpp !== info?.mpp && info?.mpp) {
    own.mpp = info.mpp;
    await own.call("scale", { mpp: info.mpp });
  }
  return own;
}

async function withModel(k) {
  const own = await helper(k);
  if (own.model !== model) {
    own.model = model;
    own.onGpu = undefined;
    own.loaded = load(own, model); // a later call waits for it too
  }
  await own.loaded;
  return own;
}

async function load(own, { bytes, card }) {
  const files = { wasm: await asset("wasm"), refiner: await asset("refiner") };
  return own.call("load", { ...files, model: bytes, card });
}

/* True if a worker uses the GPU, which is tried once for each model. */
async function usesGpu(own) {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter || adapter.info?.isFallbackAdapter) return false;
  const wasm = { wasm: await asset("wasm"), gpuWasm: await asset("gpuWasm") };
  const bytes = model.isBuiltIn ? await asset("gpuModel") : model.bytes;
  own.onGpu ??= own.call("tryGpu", { ...wasm, model: bytes });
  return own.onGpu;
}

async function builtIn() {
  const bytes = await asset("model");
  const measured = JSON.parse(new TextDecoder().decode(await asset("measured")));
  const card = { ...readCard(bytes, "compact"), ...measured };
  return { bytes, card, name: "compact (built in)", isBuiltIn: true };
}

/* Opening */

async function open(chosen) {
  if (!chosen || isSearching) return;
  try {
    model ??= await builtIn();
    if (/\.onnx$/i.test(chosen.name)) {
      const bytes = new Uint8Array(await chosen.arrayBuffer());
      model = { bytes, card: readCard(bytes, chosen.name), name: chosen.name };
      if (file) show();
      else tell(`The model ${chosen.name} will be used; now drop a picture or slide.`);
      return;
    }
    tell(`Opening ${chosen.name} ...`);
    const first = await (helpers[0] ??= Helper.start());
    info = await first.call("open", { file: chosen }); // if it fails, the file before stays open
    file = first.file = chosen;
    first.mpp = info.mpp;
    info.isStated = info.isChosen = Boolean(info.mpp);
    info.mpp ??= [0.5, 0.5];
    box = run = null;
    document.getElementById("welcome").hidden = true;
    show();
    withModel(0).catch(fail);
  } catch (error) {
    fail(error);
  }
}

function tell(sentence) {
  for (const id of ["said", "state"]) {
    const place = document.getElementById(id);
    if (place) place.textContent = sentence;
  }
}

function fail(error) {
  const isMemory = /memory|allocation|out of bounds|RangeError/i.test(error.message);
  const sentence = isMemory
    ? "The browser ran out of memory; close other tabs, choose a smaller area, or use `muse run`."
    : error.message;
  tell(sentence);
  for (const id of ["said", "state"]) document.getElementById(id)?.classList.add("warning");
}

/* The image for the viewer: its tiles are read by the first worker. */
function imageOf({ size, mpp }) {
  const maxLevel = Math.max(Math.ceil(Math.log2(Math.max(...size) / TILE_PX)), 0);
  const source = {
    width: size[0], height: size[1], tileSize: TILE_PX, minLevel: 0, maxLevel,
    getTileUrl: (level, x, y) => `${level}/${x}_${y}`,
    downloadTileStart: async (job) => {
      const { level, x: column, y: row } = job.tile;
      try {
        const own = await helper(TILES);
        const bitmap = await own.call("tile", { column, row, side: TILE_PX, factor: 2 ** (maxLevel - level) });
        const canvas = el("canvas", { width: bitmap.width, height: bitmap.height });
        const pen = canvas.getContext("2d");
        pen.drawImage(bitmap, 0, 0);
        job.finish(pen, null, "context2d");
      } catch (error) {
        job.fail(error.message, null);
      }
    },
    downloadTileAbort: () => {},
  };
  return { size_px: size, mpp: mpp[0], glass: [255, 255, 255], tile_px: TILE_PX, source };
}

/* Show the file, with the nuclei of a run. */
function show() {
  const place = muse.isOpen && muse.slide.fingerprint === info.fingerprint
    && muse.slide.mpp[0] === info.mpp[0] && [...muse.middle(), 1 / muse.view().scale];
  muse.slide = describe({ file, info, card: model.card, image: imageOf(info), run });
  muse.slide.layers = layersOf(AREA, run ? run.found.box : box);
  const none = { n: 0, nRays: 1, xy: [], score: [], prob: new Float32Array() };
  const overview = sendOverview(muse.slide, run?.nuclei ?? none);
  if (run) sendNuclei(muse.slide, run.nuclei);
  muse.events = new EventTarget();
  muse.events.addEventListener("open", () => place && muse.goTo(...place));
  panel.replaceChildren(setup());
  if (run) panel.append(results());
  muse.startViewer();
  if (run) {
    muse.startControls();
    muse.startTeaching();
  }
  muse.dragBoxes((event) => isDrawing() && !event.shift, chooseBox);
  muse.receiveOverview(...overview);
  update();
}

/* Settings */

const areas = { whole: "all tissue", box: "a rectangle", view: "this view" };

function setup() {
  const row = (title, ...nodes) => el("label", { className: "row" }, title, ...nodes);
  const options = (pairs, chosen) => pairs.map(([value, text]) =>
    el("option", { value, selected: value === chosen }, text));
  const { card } = model;
  const organs = [...new Set(Object.values(card.organs ?? {}).flat())];
  const select = (id, pairs, chosen, change = update) => el("select", { id, change }, ...options(pairs, chosen));
  const um = info.mpp[0];
  const sizes = [
    ["", "choose ..."],
    ...POWERS.map(([power, each]) => [String(each), `${power}: ${each} µm/px`]),
    ...(info.isChosen && !POWERS.some(([, each]) => each === um) ? [[String(um), `${um.toPrecision(3)} µm/px`]] : []),
    ["bar", "measure a scale bar"],
    ["other", "other"],
  ];
  const area = run?.area ?? "whole";
  return el("section", { id: "setup" },
    el("h1", {}, el("bdi", {}, file.name)),
    info.isStated
      ? el("p", { className: "note" }, `${um.toPrecision(4)} µm per pixel, from the file`)
      : row("Pixel size", select("mpp", sizes, info.isChosen ? String(um) : "", chooseScale)),
    row("Organ", select("organ", [["", "not stated"], ...organs.map((each) => [each, each]), ["this organ", "another"]], run?.organ)),
    row("Stain", select("stain", [["H&E", "H&E"], ["IHC", "another"]], "H&E")),
    row("Search", select("area", Object.entries(areas), area)),
    row("Model", el("output", { title: "Drop an ONNX file of `muse export` to use another" }, model.name)),
    el("p", { className: "buttons" },
      el("button", { type: "button", id: "find", click: find }, "Find nuclei"),
      el("button", { type: "button", id: "cancel", hidden: true, click: () => (isCancelled = true) }, "Cancel"),
      el("button", { type: "button", click: () => document.getElementById("file").click() }, "Open ...")),
    el("progress", { id: "progress", hidden: true }),
    el("p", { id: "state", role: "status" }));
}

const value = (id) => document.getElementById(id)?.value;
const isMeasuring = () => value("mpp") === "bar";
const isDrawing = () => isMeasuring() || value("area") === "box";
const ask = (question, example) => Number(window.prompt(question, example)?.replace(",", "."));

function chooseScale() {
  if (isMeasuring()) update();
  else setScale(value("mpp") === "other" ? ask("µm per pixel", "0.25") : Number(value("mpp")));
}

/* The pixel size from the longer side of a rectangle, which is as long as the scale bar. */
function measureBar([left, top, right, bottom]) {
  const px = Math.max((right - left) / info.mpp[0], (bottom - top) / info.mpp[1]);
  setScale(ask("Length of the scale bar in µm", "100") / px);
}

function setScale(um) {
  if (!(um > 0.01 && um < 100)) {
    show();
    return fail(new Error("Give the µm as a number, such as 0.25 per pixel or 100 for a scale bar."));
  }
  info.mpp = [um, um];
  info.isChosen = true;
  box = run = null;
  show();
}

function chooseBox(um) {
  // The viewer, which is replaced, first ends its own handling of the drag.
  if (isMeasuring()) return setTimeout(measureBar, 0, um);
  const px = um.map((each, k) => each / info.mpp[k & 1]);
  box = px.map((each, k) => Math.min(Math.max(Math.round(each), 0), info.size[k & 1]));
  muse.slide.layers = layersOf(AREA, box);
  muse.shown.layers.add(AREA);
  muse.changed();
  update();
}

const areaOf = ([left, top, right, bottom]) =>
  ((right - left) * info.mpp[0] * (bottom - top) * info.mpp[1]) / 1e6;

/* The box to search, in level-0 px; null if it is not chosen yet. */
function boxToSearch() {
  if (value("area") === "whole") return [0, 0, ...info.size];
  if (value("area") === "box") return box;
  const view = muse.view();
  chooseBox([view.left, view.top, view.left + view.width / view.scale, view.top + view.height / view.scale]);
  return box;
}

/* What prevents a search, as a sentence. */
function obstacle() {
  if (isMeasuring()) return "Drag a rectangle over the scale bar, from its one end to its other.";
  if (!info.isChosen) return "Choose the pixel size: the power of the objective, if you know it.";
  const coarsest = COARSEST * model.card.mpp;
  if (Math.max(...info.mpp) > coarsest * 1.001) {
    return `The slide has ${info.mpp[0].toPrecision(3)} µm per pixel, too coarse for nuclei; scan it at ${coarsest} or finer.`;
  }
  if (Math.max(...info.mpp) > 1.02 * Math.min(...info.mpp)) return "Its pixels are not square; use `muse run`.";
  if (value("stain") === "IHC") return "This page finds nuclei in H&E; for other stains use `muse run --stain IHC`.";
  if (value("area") !== "box") return "";
  if (!box) return "Drag a rectangle over the image.";
  return areaOf(box) > MOST_BOX_MM2
    ? `The rectangle has ${areaOf(box).toFixed(0)} mm²; draw one of at most ${MOST_BOX_MM2} mm², or use \`muse run\`.` : "";
}

function update() {
  const reason = obstacle();
  document.getElementById("find").disabled = Boolean(reason);
  const state = document.getElementById("state");
  state.classList.remove("warning");
  const drawn = isDrawing() && box ? `${areaOf(box).toFixed(2)} mm² are chosen.` : "";
  state.textContent = reason || drawn || (run ? "" : LOCAL);
  document.getElementById("stage").classList.toggle("drawing", isDrawing());
}

/* Finding */

async function find() {
  const area = value("area");
  const chosen = boxToSearch();
  if (!chosen || obstacle()) return update();
  const [cancel, progress] = ["cancel", "progress"].map((id) => document.getElementById(id));
  const organ = value("organ");
  for (const node of document.querySelectorAll("#setup select, #find")) node.disabled = true;
  cancel.hidden = progress.hidden = false;
  progress.removeAttribute("value");
  isCancelled = false;
  isSearching = true;
  try {
    tell("Looking for tissue ...");
    const first = await helper(0);
    const found = await first.call("survey", { box: chosen, card: model.card });
    if (!found.areaMm2) throw new Error("No tissue was found here; choose another area.");
    if (found.areaMm2 > MOST_TISSUE_MM2) {
      throw new Error(`${found.areaMm2.toFixed(0)} mm² of tissue are too many for a browser; draw a rectangle, or use \`muse run\`.`);
    }
    const nuclei = await findNuclei(found, progress);
    if (nuclei) run = { nuclei, found, organ, area, card: model.card };
    show();
    if (!nuclei) tell("Cancelled.");
  } catch (error) {
    update();
    fail(error);
  }
  isSearching = false;
  for (const node of document.querySelectorAll("#setup select")) node.disabled = false;
  for (const node of [document.getElementById("cancel"), document.getElementById("progress")]) node.hidden = true;
}

/* The nuclei in all windows; null if the user cancelled. */
async function findNuclei(found, progress) {
  const first = await withModel(0);
  const windows = await first.call("prepare", { found });
  const waiting = [...windows];
  const reports = new Map();
  const started = performance.now();
  const work = async (k) => {
    const own = await withModel(k);
    if (k) await own.call("prepare", { found });
    while (waiting.length && !isCancelled) {
      const number = waiting.shift();
      reports.set(number, await own.call("window", { number }));
      const share = reports.size / windows.length;
      const left = ((performance.now() - started) / 1000) * (1 / share - 1);
      progress.value = share;
      tell(`${Math.round(share * 100)} %, about ${Math.ceil(left)} s left`);
    }
  };
  const onGpu = windows.length >= WORTH_GPU && await usesGpu(first);
  const n = onGpu ? 1 : Math.min(howMany(), windows.length);
  await Promise.all(Array.from({ length: n }, (_, k) => work(k)));
  if (isCancelled) return null;
  return first.call("finish", { reports: windows.map((number) => reports.get(number)), windows });
}

/* Results */

function results() {
  const counts = summarise(run);
  const doubts = findDoubts(run, info, run.organ);
  const cell = (text) => el("td", {}, text);
  const whole = (n) => Math.round(n).toLocaleString("en");
  const save = (title, suffix, type, make) => el("button", {
    type: "button", id: `save-${suffix.split(".").at(-1)}`,
    click: async () => download(`${muse.slide.slide_id}${suffix}`, await make(), type),
  }, title);
  return muse.section("Result",
    el("table", { id: "counts" },
      el("tr", {}, ...["", "nuclei", "per mm²"].map((text) => el("th", {}, text))),
      ...counts.map(({ name, n, perMm2 }) => el("tr", {}, el("th", {}, el("bdi", {}, name)), cell(whole(n)), cell(whole(perMm2))))),
    el("p", { className: "note" }, `in ${run.found.areaMm2.toFixed(2)} mm² of tissue`),
    ...doubts.map((doubt) => el("p", { className: "warning" }, doubt)),
    el("p", { className: "buttons" },
      save("GeoJSON for QuPath", ".geojson", "application/geo+json", () => toGeoJson(run, info)),
      save("Table (CSV)", ".csv", "text/csv", () => toCsv(run, info)),
      save("This view (PNG)", ".png", "image/png", drawView)));
}

function download(name, content, type) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/* The view with its outlines, as PNG. */
function drawView() {
  const stage = document.getElementById("image").getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  const canvas = el("canvas", { width: stage.width * ratio, height: stage.height * ratio });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  for (const layer of document.querySelectorAll("#image canvas")) {
    if (layer.closest(".navigator") || getComputedStyle(layer).visibility === "hidden") continue;
    const at = layer.getBoundingClientRect();
    const place = [at.left - stage.left, at.top - stage.top, at.width, at.height];
    if (at.width && layer.width) pen.drawImage(layer, ...place.map((px) => px * ratio));
  }
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/* Start */

const input = el("input", { type: "file", id: "file", hidden: true, change: () => open(input.files[0]) });
document.body.append(input);
document.getElementById("stage").append(el("div", { id: "welcome" },
  el("h1", {}, "Find nuclei in an H&E picture or slide"),
  el("p", {}, "Drop a PNG, JPEG, TIFF or SVS file here, or"),
  el("button", { type: "button", click: () => input.click() }, "Choose a file"),
  el("p", { className: "note" }, LOCAL),
  el("p", { id: "said", role: "status" })));
panel.append(el("h1", {}, "MUSE"), el("ol", { id: "steps" }, ...[
  "Open a picture or slide, stained with haematoxylin and eosin.",
  "Choose the pixel size, if the file does not state it, and the organ.",
  "Find nuclei: in all tissue, or in a rectangle that you draw.",
  "Save them for QuPath, or correct them to train a model.",
].map((step) => el("li", {}, step))),
el("p", { className: "note" }, "Research use only; not a medical device."));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  open(event.dataTransfer.files[0]);
});
