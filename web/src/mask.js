/* Masks {data, width, height}: components, morphology and the cells that they touch. */

export const newMask = (width, height, find) => {
  const data = new Uint8Array(width * height);
  for (let i = 0; i < data.length; i++) data[i] = find(i) ? 1 : 0;
  return { data, width, height };
};
export const mapMask = ({ data, width, height }, find) =>
  newMask(width, height, (i) => find(data[i], i));

/* Numbers, from 1, of the connected components of a mask, their areas, and which touch its edge. */
export function label({ data, width, height }, diagonal = true) {
  const number = new Int32Array(data.length);
  const [area, atEdge, stack] = [[0], [false], []];
  for (let seed = 0; seed < data.length; seed++) {
    if (!data[seed] || number[seed]) continue;
    const own = area.push(0) - 1;
    atEdge.push(false);
    number[seed] = own;
    stack.push(seed);
    while (stack.length) {
      const at = stack.pop();
      const [x, y] = [at % width, Math.floor(at / width)];
      area[own]++;
      if (!x || !y || x === width - 1 || y === height - 1) atEdge[own] = true;
      for (let row = Math.max(y - 1, 0); row <= Math.min(y + 1, height - 1); row++) {
        for (let column = Math.max(x - 1, 0); column <= Math.min(x + 1, width - 1); column++) {
          const next = row * width + column;
          if (!diagonal && row !== y && column !== x) continue;
          if (!data[next] || number[next]) continue;
          number[next] = own;
          stack.push(next);
        }
      }
    }
  }
  return { number, area, atEdge };
}

/* The components of a mask with a pixel for which `find` is true. */
export function containing(mask, find) {
  const { number, area } = label(mask);
  const chosen = area.map(() => false);
  number.forEach((own, i) => own && find(i) && (chosen[own] = true));
  return newMask(mask.width, mask.height, (i) => chosen[number[i]]);
}

export function dropSmall(mask, least, diagonal = true, keepAtEdge = false) {
  const { number, area, atEdge } = label(mask, diagonal);
  const isLarge = area.map((n, k) => k && (n >= least || (keepAtEdge && atEdge[k] && n >= least / 8)));
  return newMask(mask.width, mask.height, (i) => isLarge[number[i]]);
}

/* Half the width of each row of OpenCV's ellipse with these radii. */
export const ellipse = ([x, y]) =>
  Array.from({ length: 2 * y + 1 }, (_, k) => Math.round(x * Math.sqrt(1 - ((k - y) / y) ** 2)));

/* Rows of a disc of `radius` um on pixels of `mpp` um, as half widths. */
export function disc(radius, mpp) {
  const reach = radius + Math.min(...mpp) / 4;
  const [x, y] = mpp.map((side) => Math.floor(reach / side));
  return Array.from({ length: 2 * y + 1 }, (_, k) => {
    const rest = reach ** 2 - ((k - y) * mpp[1]) ** 2;
    return Math.min(x, Math.floor(Math.sqrt(rest) / mpp[0]));
  });
}

/* A mask grown by a shape, given as half widths of its rows; nothing lies beyond its edges. */
export function grow(mask, shape) {
  const { data, width, height } = mask;
  const result = newMask(width, height, () => false);
  const reach = (shape.length - 1) / 2;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!data[y * width + x]) continue;
      for (let k = 0; k < shape.length; k++) {
        const row = y + k - reach;
        if (row < 0 || row >= height) continue;
        const left = Math.max(x - shape[k], 0);
        const right = Math.min(x + shape[k], width - 1);
        result.data.fill(1, row * width + left, row * width + right + 1);
      }
    }
  }
  return result;
}

export const invert = (mask) => mapMask(mask, (value) => !value);
export const shrink = (mask, shape) => invert(grow(invert(mask), shape));

/* The mask with its edge repeated `x` and `y` times on each side; negative numbers cut it. */
export function pad(mask, x, y) {
  const [width, height] = [mask.width + 2 * x, mask.height + 2 * y];
  const clip = (value, n) => Math.min(Math.max(value, 0), n - 1);
  return newMask(width, height, (i) => {
    const [column, row] = [(i % width) - x, Math.floor(i / width) - y];
    return mask.data[clip(row, mask.height) * mask.width + clip(column, mask.width)];
  });
}

/* The cells of `side` um that a mask with pixels of `mpp` um touches; its edge repeats once. */
export function touchedCells(mask, mpp, side, [columns, rows]) {
  const result = newMask(columns, rows, () => false);
  const span = (cell, i, n) => {
    const scale = side / mpp[i];
    const stop = Math.ceil((cell + 1) * scale - 1e-6);
    return [Math.floor(cell * scale + 1e-6), Math.min(stop, n + 1)];
  };
  for (let row = 0; row < rows; row++) {
    const [top, bottom] = span(row, 1, mask.height);
    for (let column = 0; column < columns; column++) {
      const [left, right] = span(column, 0, mask.width);
      for (let y = top; y < bottom; y++) {
        for (let x = left; x < right; x++) {
          const at = Math.min(y, mask.height - 1) * mask.width + Math.min(x, mask.width - 1);
          if (mask.data[at]) result.data[row * columns + column] = 1;
        }
      }
    }
  }
  return result;
}
