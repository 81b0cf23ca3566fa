/* Files for QuPath and tables, and the doubts about a result, as in `qupath/write.py` and
   `inference/doubts.py`. */

import { measureShape, outlineInPixels } from "./outlines.js";
import { percentile } from "./stain.js";
import { ringOf } from "./pairs.js";
import { labelOf } from "./shown.js";

const MEASURES = ["area_um2", "perimeter_um", "eccentricity", "major_axis_um", "minor_axis_um"];

/* The nuclei of a run with their class and shape, one by one. */
export function* eachNucleus({ nuclei, card }) {
  const n = card.classes.length;
  for (let i = 0; i < nuclei.n; i++) {
    const kind = card.classes[labelOf(nuclei, i, n)];
    const prob = [...nuclei.prob.subarray(i * n, (i + 1) * n)];
    yield { i, kind, prob, score: nuclei.score[i], ...measureShape(ringOf(nuclei, i)) };
  }
}

/* GeoJSON that QuPath opens: a detection per nucleus, a line each. */
export function toGeoJson(run, info) {
  const lines = [];
  for (const { i, kind, score, area_um2: area, eccentricity } of eachNucleus(run)) {
    const ring = outlineInPixels(run.nuclei, i, info.mpp, info.size);
    const points = Array.from({ length: ring.length / 2 + 1 }, (_, k) => {
      const at = (2 * k) % ring.length;
      return [ring[at], ring[at + 1]];
    });
    const measurements = {
      "Detection probability": Number(score.toFixed(3)), "Area um^2": Number(area.toFixed(2)),
      Eccentricity: Number(eccentricity.toFixed(3)),
    };
    const classification = { name: kind.name, color: kind.color };
    lines.push(JSON.stringify({
      type: "Feature",
      geometry: { type: "Polygon", coordinates: [points] },
      properties: { objectType: "detection", classification, measurements },
    }));
  }
  return `{"type":"FeatureCollection","features":[\n${lines.join(",\n")}\n]}\n`;
}

export function toCsv(run, info) {
  const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const names = run.card.classes.map((kind) => `prob_${kind.name}`);
  const rows = [["x", "y", "class", "score", ...names, ...MEASURES].map(quote).join(",")];
  for (const nucleus of eachNucleus(run)) {
    const xy = info.mpp.map((side, k) => (run.nuclei.xy[2 * nucleus.i + k] / side).toFixed(2));
    const { kind, score, prob } = nucleus;
    const numbers = [score, ...prob, ...MEASURES.map((name) => nucleus[name])];
    rows.push([...xy, quote(kind.name), ...numbers.map((value) => value.toFixed(4))].join(","));
  }
  return `${rows.join("\n")}\n`;
}

/* Numbers of nuclei of each class: {name, n, perMm2, area, probability}; the first is of all. */
export function summarise(run) {
  const groups = [{ name: "All" }, ...run.card.classes]
    .map(({ name }) => ({ name, areas: [], total: 0 }));
  for (const { kind, prob, area_um2: area } of eachNucleus(run)) {
    for (const group of groups.filter(({ name }) => name === kind.name || name === "All")) {
      group.areas.push(area);
      group.total += Math.max(...prob);
    }
  }
  return groups.map(({ name, areas, total }) => ({
    name, n: areas.length, perMm2: areas.length / run.found.areaMm2,
    area: areas.length ? percentile(areas.sort((a, b) => a - b), 50) : 0,
    probability: total / Math.max(areas.length, 1),
  }));
}

/* Value at `x` of a line through points, constant beyond its ends. */
function interpolate(x, xs, ys) {
  if (x <= xs[0]) return ys[0];
  const k = xs.findIndex((each) => x <= each);
  if (k < 0) return ys.at(-1);
  return ys[k - 1] + ((x - xs[k - 1]) / (xs[k] - xs[k - 1])) * (ys[k] - ys[k - 1]);
}

const LEAST = 100; // nuclei; fewer are not judged

/* Reasons not to trust the numbers: pixel size, classes too large, and an organ without measured accuracy. */
export function findDoubts(run, info, organ) {
  const [all, ...classes] = summarise(run);
  const references = run.card.nuclei ?? {};
  const doubts = [];
  if (!run.found.hasStains) {
    doubts.push("The stains cannot be estimated; colours are left as they are.");
  }
  if (Math.max(...info.mpp) > run.card.mpp * 1.05) {
    doubts.push(`The slide has ${info.mpp[0].toPrecision(3)} µm/px and is enlarged: nuclei are missed.`);
  }
  const size = doubtSize(all, classes, references, info.mpp);
  if (size) doubts.push(`Check the pixel size, ${info.mpp[0].toPrecision(3)} µm: ${size}.`);
  const isScanners = info.source === "scanner";
  if (!size || isScanners) doubts.push(...doubtClasses(classes, references));
  const unlisted = run.card.classes.map(({ name }) => name)
    .filter((name) => organ && !(run.card.organs?.[name] ?? []).includes(organ));
  if (unlisted.length && run.card.classes.length > 1) {
    const names = unlisted.length === run.card.classes.length ? "the classes" : unlisted.join(" and ");
    doubts.push(`The accuracy of ${names} was not measured in ${organ}.`);
  }
  return doubts;
}

/* The plausible sizes of nuclei, and of those of a class relative to training, are those of inference/doubts.py. */
function doubtSize(all, classes, references, mpp) {
  if (all.n < LEAST) return "";
  const compared = classes.filter(({ name, n }) => references[name] && n >= 15);
  const logs = compared.map(({ name, area }) => Math.log(area / references[name].median_area_um2[1]));
  const ratio = Math.exp(logs.reduce((sum, each) => sum + each, 0) / logs.length);
  const [value, least, limit] = logs.length ? [ratio, 0.47, 1.5] : [all.area, 14, 100];
  const isMixed = compared.length && !compared.some(({ name }) => references[name].mean_class_probability);
  const most = (isMixed ? 2 : limit) * (all.probability > 0.97 ? 2 : 1);
  const isSmall = value < least && Math.max(...mpp) <= 0.525 && !isMixed;
  if (!isSmall && value <= most) return "";
  const times = logs.length ? `, ${ratio.toPrecision(2)} times that of training, class by class` : "";
  return `the nuclei are too ${isSmall ? "small" : "large"} for it (median area ${all.area.toFixed(1)} µm²${times})`;
}

function doubtClasses(classes, references) {
  return classes.filter(({ name, n }) => references[name]?.mean_class_probability && n >= LEAST).flatMap((each) => {
    const { median_area_um2: [, typical, most], mean_class_probability: known } = references[each.name];
    const limits = [Math.sqrt(typical * most), 1.2 * most, 1.2 * most];
    const limit = each.probability > known[2] ? Infinity : interpolate(each.probability, known, limits);
    if (each.area <= limit) return [];
    return [`Check the classes: nuclei of the class "${each.name}" are too large for it (median area `
      + `${each.area.toFixed(1)} µm², expected at most ${limit.toFixed(1)} µm²).`];
  });
}
