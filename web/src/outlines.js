/* Outlines of nuclei: samples for the network that refines them (`inference/outlines.py`), rings
   that QuPath accepts (`nuclei/rays.py`) and their shapes (`nuclei/shape.py`). */

import { areaOf, directionsOf, ringOf } from "./pairs.js";

export const BLOCK = 64; // nuclei per run of the refining network
const N_REFINED = 16; // rays that it reads
const N_STEPS = 8;
const STEP_UM = 0.375;
const LEAST_UM = 0.5;

/* Values at `m` angles, interpolated from those of row `i` of (n, `n` angles). */
export function resampleAngles(values, i, n, m) {
  return Float32Array.from({ length: m }, (_, k) => {
    const [at, share] = [Math.floor((k * n) / m), ((k * n) / m) % 1];
    return (1 - share) * values[i * n + at] + share * values[i * n + ((at + 1) % n)];
  });
}

/* Optical densities (3, 17, 64, 16) around the ends of `rays` (64, 16) um, in a window of planes
   {pixels, width, height} with centres `xy` (64, 2) in its pixels. */
export function sampleAlongRays({ pixels, width, height }, xy, rays, mpp) {
  const direction = directionsOf(N_REFINED);
  const [samples, plane] = [2 * N_STEPS + 1, BLOCK * N_REFINED];
  const density = new Float32Array(3 * samples * plane);
  const clip = (value, n) => Math.min(Math.max(value, 0), n - 1);
  for (let s = 0; s < samples; s++) {
    for (let at = 0; at < plane; at++) {
      const [i, k] = [Math.floor(at / N_REFINED), at % N_REFINED];
      const along = Math.max(rays[at] + (s - N_STEPS) * STEP_UM, 0) / mpp;
      const x = xy[2 * i] - 0.5 + along * direction[2 * k];
      const y = xy[2 * i + 1] - 0.5 + along * direction[2 * k + 1];
      const [left, top] = [Math.floor(x), Math.floor(y)];
      const [fx, fy] = [x - left, y - top];
      const [x0, x1] = [clip(left, width), clip(left + 1, width)];
      const [y0, y1] = [clip(top, height) * width, clip(top + 1, height) * width];
      for (let c = 0; c < 3; c++) {
        const p = c * width * height;
        const upper = pixels[p + y0 + x0] * (1 - fx) + pixels[p + y0 + x1] * fx;
        const lower = pixels[p + y1 + x0] * (1 - fx) + pixels[p + y1 + x1] * fx;
        const level = Math.round(upper * (1 - fy) + lower * fy);
        density[(c * samples + s) * plane + at] = -Math.log((level + 1) / 256);
      }
    }
  }
  return density;
}

/* Rays (n, nRays) refined by the network `run(density, rays)`, which returns changes (64, 16). */
export async function refineOutlines(run, window, { n, nRays, xy, rays }, mpp) {
  const refined = new Float32Array(rays.length);
  for (let first = 0; first < n; first += BLOCK) {
    const block = Array.from({ length: BLOCK }, (_, k) => Math.min(first + k, n - 1));
    const own = new Float32Array(BLOCK * N_REFINED);
    block.forEach((i, k) => own.set(resampleAngles(rays, i, nRays, N_REFINED), k * N_REFINED));
    const centres = Float64Array.from(block.flatMap((i) => [xy[2 * i], xy[2 * i + 1]]));
    const change = await run(sampleAlongRays(window, centres, own, mpp), own);
    for (let k = 0; k < BLOCK && first + k < n; k++) {
      resampleAngles(change, k, N_REFINED, nRays).forEach((part, ray) => {
        const at = (first + k) * nRays + ray;
        refined[at] = Math.max(rays[at] + part, Math.min(rays[at], LEAST_UM));
      });
    }
  }
  return refined;
}

/* Shorten the rays of nuclei that end outside a slide of [width, height] um. */
export function clipRays({ n, nRays, xy, rays }, size) {
  const direction = directionsOf(nRays);
  for (let at = 0; at < n * nRays; at++) {
    const [i, k] = [Math.floor(at / nRays), at % nRays];
    for (let axis = 0; axis < 2; axis++) {
      const part = direction[2 * k + axis];
      const room = part > 0 ? size[axis] - xy[2 * i + axis] : xy[2 * i + axis];
      if (Math.abs(part) > 1e-9) rays[at] = Math.min(rays[at], room / Math.abs(part));
    }
  }
}

/* True if no edges of a ring [x, y, x, y ...] touch, apart from those that share a vertex. */
function isSimple(ring) {
  const n = ring.length / 2;
  const side = (a, b, c) => (ring[2 * b] - ring[2 * a]) * (ring[2 * c + 1] - ring[2 * a + 1])
    - (ring[2 * b + 1] - ring[2 * a + 1]) * (ring[2 * c] - ring[2 * a]);
  for (let i = 0; i < n; i++) {
    const next = (i + 1) % n;
    if (ring[2 * i] === ring[2 * next] && ring[2 * i + 1] === ring[2 * next + 1]) return false;
    for (let k = i + 2; k < n; k++) {
      const last = (k + 1) % n;
      if (last === i) continue;
      const across = side(i, next, k) * side(i, next, last);
      if (across <= 0 && side(k, last, i) * side(k, last, next) <= 0) return false;
    }
  }
  return true;
}

/* The outline of nucleus `i` in px of `mpp` um, to 0.1 px; a circle if rounding breaks it. */
export function outlineInPixels(nuclei, i, mpp, size) {
  const round = (value) => Math.round(value * 10) / 10;
  const ring = ringOf(nuclei, i).map((um, k) => round(um / mpp[k & 1]));
  if (areaOf(ring) > 0.1 && isSimple(ring)) return ring;
  const own = nuclei.rays.subarray(i * nuclei.nRays, (i + 1) * nuclei.nRays);
  const radius = Math.max(own.reduce((sum, ray) => sum + ray, 0) / own.length / mpp[0], 0.5);
  return directionsOf(8).map((part, k) => {
    const centre = nuclei.xy[2 * i + (k & 1)] / mpp[k & 1];
    const limit = size[k & 1] - radius;
    return round(Math.min(Math.max(centre, radius), limit) + radius * part);
  });
}

/* Size and shape of a ring in um, by Green's formulas. */
export function measureShape(ring) {
  let [area, perimeter, mx, my, xx, yy, xy] = [0, 0, 0, 0, 0, 0, 0];
  const [x0, y0] = ring;
  for (let k = 0; k < ring.length; k += 2) {
    const [x, y] = [ring[k] - x0, ring[k + 1] - y0];
    const [u, v] = [ring[(k + 2) % ring.length] - x0, ring[(k + 3) % ring.length] - y0];
    const cross = x * v - u * y;
    area += cross / 2;
    perimeter += Math.hypot(u - x, v - y);
    mx += ((x + u) * cross) / 6;
    my += ((y + v) * cross) / 6;
    xx += ((x * x + x * u + u * u) * cross) / 12;
    yy += ((y * y + y * v + v * v) * cross) / 12;
    xy += ((x * v + 2 * (x * y + u * v) + u * y) * cross) / 24;
  }
  const [a, b] = [mx / area, my / area];
  const [pxx, pyy, pxy] = [xx / area - a * a, yy / area - b * b, xy / area - a * b];
  const spread = Math.hypot((pxx - pyy) / 2, pxy);
  const large = Math.max((pxx + pyy) / 2 + spread, 1e-12);
  const small = Math.max((pxx + pyy) / 2 - spread, 0);
  return {
    area_um2: Math.abs(area),
    perimeter_um: perimeter,
    eccentricity: Math.sqrt(1 - Math.min(small / large, 1)),
    major_axis_um: 4 * Math.sqrt(large),
    minor_axis_um: 4 * Math.sqrt(small),
  };
}
