/* Pairs of close nuclei, as in `nuclei/pairs.py`: duplicates are suppressed, reports of two windows
   are merged, and overlaps are divided. Positions and rays are in um, unless a name says otherwise;
   nuclei have {n, nRays, xy, rays, ...}, with two numbers and `nRays` numbers per nucleus. */

const SAME_SHARE = 0.4; // maximum overlap, as a fraction of the smaller outline
const SLACK_UM = 4; // distance outside its core up to which a window reports nuclei
const SAME_UM = 2; // maximum distance between two reports of the same nucleus
const REACH_UM = 32; // nuclei with centres farther apart do not cut each other

/* A grid of cells in which positions are looked up. */
class Cells {
  constructor(radius) {
    this.side = radius * (1 + 1e-9);
    this.cells = new Map();
  }

  near(x, y) {
    const [column, row] = [Math.floor(x / this.side), Math.floor(y / this.side)];
    const found = [];
    for (let dy = -1; dy <= 1; dy++) {
      for (let dx = -1; dx <= 1; dx++) {
        const cell = this.cells.get((row + dy) * 1e7 + column + dx);
        if (cell) found.push(...cell);
      }
    }
    return found;
  }

  add(x, y, i) {
    const key = Math.floor(y / this.side) * 1e7 + Math.floor(x / this.side);
    if (!this.cells.has(key)) this.cells.set(key, []);
    this.cells.get(key).push(i);
  }
}

/* Pairs [i, k, distance], i < k, of positions at most `radius` apart. */
export function closePairs(xy, radius) {
  const [cells, pairs] = [new Cells(radius), []];
  for (let k = 0; k < xy.length / 2; k++) {
    const [x, y] = [xy[2 * k], xy[2 * k + 1]];
    for (const i of cells.near(x, y)) {
      const distance = Math.hypot(x - xy[2 * i], y - xy[2 * i + 1]);
      if (distance <= radius) pairs.push([i, k, distance]);
    }
    cells.add(x, y, k);
  }
  return pairs;
}

const directions = new Map();

/* Cosines and sines of the angles of `n` rays, in turn. */
export function directionsOf(n) {
  const turn = (k) => ((k >> 1) * 2 * Math.PI) / n;
  const make = (_, k) => (k % 2 ? Math.sin(turn(k)) : Math.cos(turn(k)));
  if (!directions.has(n)) directions.set(n, Float64Array.from({ length: 2 * n }, make));
  return directions.get(n);
}

/* Ends of the rays of nucleus `i` as [x, y, x, y ...]. */
export function ringOf({ xy, rays, nRays }, i) {
  const direction = directionsOf(nRays);
  return Float64Array.from(direction, (part, k) =>
    xy[2 * i + (k & 1)] + rays[i * nRays + (k >> 1)] * part);
}

/* Crossings of the edges of two rings, [edge of a, share of it, edge of b, share of it]. */
function crossingsOf(a, b) {
  const found = [];
  for (let i = 0; i < a.length; i += 2) {
    const [x, y] = [a[i], a[i + 1]];
    const [dx, dy] = [a[(i + 2) % a.length] - x, a[(i + 3) % a.length] - y];
    for (let k = 0; k < b.length; k += 2) {
      const [u, v] = [b[k] - x, b[k + 1] - y];
      const [du, dv] = [b[(k + 2) % b.length] - b[k], b[(k + 3) % b.length] - b[k + 1]];
      const area = dx * dv - dy * du;
      const [s, t] = [(u * dv - v * du) / area, (u * dy - v * dx) / area];
      if (s >= 0 && s < 1 && t >= 0 && t < 1) found.push([i, s, k, t]);
    }
  }
  return found;
}

/* True if a position lies in the outline of nucleus `i`. */
export function isInside(nuclei, i, ring, x, y) {
  const { xy, nRays } = nuclei;
  const [dx, dy] = [x - xy[2 * i], y - xy[2 * i + 1]];
  const turn = ((Math.atan2(dy, dx) / (2 * Math.PI) + 1) % 1) * nRays;
  const k = 2 * (Math.floor(turn) % nRays);
  const next = (k + 2) % ring.length;
  const [ex, ey] = [ring[next] - ring[k], ring[next + 1] - ring[k + 1]];
  return ex * (y - ring[k + 1]) - ey * (x - ring[k]) >= 0;
}

export function areaOf(ring) {
  let area = 0;
  for (let k = 0; k < ring.length; k += 2) {
    area += ring[k] * ring[(k + 3) % ring.length] - ring[(k + 2) % ring.length] * ring[k + 1];
  }
  return Math.abs(area) / 2;
}

/* Area shared by the outlines of nuclei `i` and `k`: Green's formula along the parts of each ring
   that lie inside the other. */
export function sharedArea(nuclei, i, k) {
  const rings = [ringOf(nuclei, i), ringOf(nuclei, k)];
  const crossings = crossingsOf(...rings);
  const [x0, y0] = rings[0];
  let area = 0;
  [[0, k], [1, i]].forEach(([own, other]) => {
    const ring = rings[own];
    for (let at = 0; at < ring.length; at += 2) {
      const cuts = crossings.filter((each) => each[2 * own] === at).map((each) => each[2 * own + 1]);
      const stops = [0, ...cuts.sort((a, b) => a - b), 1];
      const [x, y] = [ring[at] - x0, ring[at + 1] - y0];
      const [dx, dy] = [ring[(at + 2) % ring.length] - ring[at], ring[(at + 3) % ring.length] - ring[at + 1]];
      for (let part = 1; part < stops.length; part++) {
        const [from, to] = [stops[part - 1], stops[part]];
        const middle = (from + to) / 2;
        const isShared = isInside(nuclei, other, rings[1 - own], x0 + x + middle * dx, y0 + y + middle * dy);
        if (isShared) area += (to - from) * (x * dy - y * dx);
      }
    }
  });
  return Math.abs(area) / 2;
}

/* Indices of the nuclei, by descending score, that overlap no better one that is kept. */
export function suppressOverlaps(nuclei) {
  const { n, nRays, xy, rays } = nuclei;
  const longest = rays.reduce((most, ray) => Math.max(most, ray), 0.01);
  const [cells, kept] = [new Cells(2 * longest), []];
  const meet = (i, k) => {
    const [dx, dy] = [xy[2 * k] - xy[2 * i], xy[2 * k + 1] - xy[2 * i + 1]];
    const turn = Math.atan2(dy, dx) / (2 * Math.PI);
    const at = (share) => ((Math.round((turn + share) * nRays) % nRays) + nRays) % nRays;
    return rays[i * nRays + at(0)] + rays[k * nRays + at(0.5)] > Math.hypot(dx, dy);
  };
  const isSame = (i, k) => meet(i, k) && sharedArea(nuclei, i, k)
    > SAME_SHARE * Math.min(areaOf(ringOf(nuclei, i)), areaOf(ringOf(nuclei, k)));
  for (let k = 0; k < n; k++) {
    if (cells.near(xy[2 * k], xy[2 * k + 1]).some((i) => isSame(i, k))) continue;
    cells.add(xy[2 * k], xy[2 * k + 1], k);
    kept.push(k);
  }
  return kept;
}

/* True if a window reports a nucleus at work px: up to the slack outside its core. */
export const isReported = (grid, mpp, window, x, y) => grid.depth(x, y, window) >= -SLACK_UM / mpp;

/* Indices of the reports that are kept, one per nucleus: the one that lies deeper in its core.
   `xy` is in work px, and `window` has the window of each report. */
export function mergeSeams(grid, mpp, xy, window) {
  const depth = Array.from(window, (own, i) => grid.depth(xy[2 * i], xy[2 * i + 1], own));
  let alive = [...window.keys()].filter((i) => depth[i] <= (SLACK_UM + SAME_UM) / mpp);
  const lost = new Set();
  const seen = new Map(alive.map((i) => [i, [window[i]]])); // windows whose reports are merged
  for (;;) {
    const near = Float64Array.from(alive.flatMap((i) => [xy[2 * i], xy[2 * i + 1]]));
    const pairs = closePairs(near, SAME_UM / mpp)
      .map(([i, k, distance]) => [alive[i], alive[k], distance])
      .filter(([i, k]) => !seen.get(i).some((own) => seen.get(k).includes(own)))
      .sort((a, b) => a[2] - b[2] || a[0] - b[0] || a[1] - b[1]);
    const best = new Map();
    for (const pair of pairs) for (const i of pair.slice(0, 2)) if (!best.has(i)) best.set(i, pair);
    const mutual = pairs.filter((pair) => best.get(pair[0]) === pair && best.get(pair[1]) === pair);
    if (!mutual.length) break;
    for (const [i, k] of mutual) {
      const isDeeper = depth[k] > depth[i] || (depth[k] === depth[i] && window[k] < window[i]);
      const [keep, drop] = isDeeper ? [k, i] : [i, k];
      lost.add(drop);
      seen.set(keep, [...seen.get(i), ...seen.get(k)]);
    }
    alive = alive.filter((i) => !lost.has(i));
  }
  return [...window.keys()].filter((i) => !lost.has(i)
    && (seen.get(i)?.length > 1 || grid.owns(xy[2 * i], xy[2 * i + 1], window[i])));
}

/* Shorten the rays of nuclei that end in another nucleus: two outlines that cross are divided by
   the line through their outermost crossings, or across the segment between their centres. */
export function cutApart(nuclei) {
  const { n, nRays, xy, rays } = nuclei;
  const direction = directionsOf(nRays);
  const radius = Float64Array.from({ length: n }, (_, i) =>
    rays.subarray(i * nRays, (i + 1) * nRays).reduce((most, ray) => Math.max(most, ray), 0));
  const shortened = rays.slice();
  const longest = radius.reduce((most, each) => Math.max(most, each), 0.01);
  const extent = (i, x, y) => {
    let most = 0;
    for (let k = 0; k < nRays; k++) {
      most = Math.max(most, rays[i * nRays + k] * (x * direction[2 * k] + y * direction[2 * k + 1]));
    }
    return most;
  };
  for (const [a, b, distance] of closePairs(xy, Math.min(2 * longest, REACH_UM))) {
    if (distance >= radius[a] + radius[b]) continue;
    const [dx, dy] = [xy[2 * b] - xy[2 * a], xy[2 * b + 1] - xy[2 * a + 1]];
    if (extent(a, dx, dy) + extent(b, -dx, -dy) <= dx * dx + dy * dy) continue;
    const line = findCut(nuclei, a, b);
    if (line) for (const [i, way] of [[a, 1], [b, -1]]) shorten(i, line.map((v, k) => (k < 2 ? way * v : v)));
  }
  function shorten(i, [nx, ny, x, y]) {
    const room = nx * (x - xy[2 * i]) + ny * (y - xy[2 * i + 1]);
    for (let k = 0; k < nRays; k++) {
      const towards = nx * direction[2 * k] + ny * direction[2 * k + 1];
      const at = i * nRays + k;
      if (towards > 0) shortened[at] = Math.min(shortened[at], room / towards);
    }
  }
  return shortened;
}

/* The line, [normal x, y, point x, y], that divides nuclei `a` and `b`; null if they do not cross. */
function findCut(nuclei, a, b) {
  const ring = ringOf(nuclei, a);
  const crossings = crossingsOf(ring, ringOf(nuclei, b)).map(([at, share]) => [0, 1].map((axis) =>
    ring[at + axis] + share * (ring[(at + 2 + axis) % ring.length] - ring[at + axis])));
  if (!crossings.length) return null;
  const { xy } = nuclei;
  const [x, y, dx, dy] = [xy[2 * a], xy[2 * a + 1], xy[2 * b] - xy[2 * a], xy[2 * b + 1] - xy[2 * a + 1]];
  crossings.sort((p, q) => dx * p[1] - dy * p[0] - (dx * q[1] - dy * q[0]));
  const [low, high] = [crossings[0], crossings.at(-1)];
  const middle = [(low[0] + high[0]) / 2 - x, (low[1] + high[1]) / 2 - y];
  const normal = [high[1] - low[1], low[0] - high[0]];
  const before = normal[0] * middle[0] + normal[1] * middle[1];
  const after = normal[0] * (dx - middle[0]) + normal[1] * (dy - middle[1]);
  if (before > 0 && after > 0) return [...normal, x + middle[0], y + middle[1]];
  const share = (dx * middle[0] + dy * middle[1]) / (dx * dx + dy * dy);
  const way = Math.min(Math.max(share, 0.25), 0.75);
  return [dx, dy, x + way * dx, y + way * dy];
}
