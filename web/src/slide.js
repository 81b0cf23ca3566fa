/* Slides and pictures: {size, mpp, source, levels, read}, where `read(level, x, y, width, height)`
   returns RGB of pixels within a level, and `mpp` is null if the file does not state it. */

import { BaseDecoder, fromBlob, GeoTIFFImage } from "geotiff";

const ASIDE = "convert it to a tiled TIFF with 8 bits per channel, or use `muse run`";
const MOST_PIXELS = 64e6; // of a picture that is decoded as a whole
const MOST_TILES = 64; // decoded tiles that are kept
const MICRONS = { µm: 1, "μm": 1, um: 1, micron: 1, nm: 1e-3, mm: 1e3, cm: 1e4, m: 1e6 };

export async function openSlide(file) {
  const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  const isTiff = (head[0] === 73 && head[1] === 73) || (head[0] === 77 && head[1] === 77);
  return isTiff ? openTiff(file) : openPicture(file);
}

/* RGB of the RGBA in a canvas; what is transparent is white. */
function withoutAlpha(rgba) {
  const rgb = new Uint8ClampedArray((rgba.length / 4) * 3);
  for (let i = 0, k = 0; i < rgba.length; i += 4) {
    const white = 255 - rgba[i + 3];
    for (let c = 0; c < 3; c++) rgb[k++] = white ? (rgba[i + c] * (255 - white)) / 255 + white : rgba[i + c];
  }
  return rgb;
}

const PLAIN = { imageOrientation: "none", premultiplyAlpha: "none", colorSpaceConversion: "none" };

async function decode(blob) {
  const bitmap = await createImageBitmap(blob, PLAIN);
  const { width, height } = bitmap;
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { rgb: withoutAlpha(pen.getImageData(0, 0, width, height).data), width, height };
}

/* A picture that the browser decodes, such as PNG or JPEG. */
async function openPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, PLAIN);
  } catch {
    throw new Error(`${file.name}: is neither a TIFF nor a picture that the browser can read; use `
      + "`muse run`, which reads more formats.");
  }
  const size = [bitmap.width, bitmap.height];
  bitmap.close();
  if (size[0] * size[1] > MOST_PIXELS) {
    throw new Error(`${file.name}: ${size.join(" x ")} pixels are too many for one picture; ${ASIDE}.`);
  }
  const { rgb, width } = await decode(file);
  const read = (level, x, y, w, h) => cutOut(rgb, width, x, y, w, h);
  return { size, mpp: null, source: "", levels: [{ size, downsample: [1, 1] }], read };
}

function cutOut(rgb, width, x, y, w, h) {
  const part = new Uint8ClampedArray(w * h * 3);
  for (let row = 0; row < h; row++) {
    const from = ((y + row) * width + x) * 3;
    part.set(rgb.subarray(from, from + 3 * w), row * w * 3);
  }
  return part;
}

/* Decodes JPEG tiles with the browser; a marker tells it if they are RGB, as Aperio writes them. */
class NativeJpeg extends BaseDecoder {
  async decodeBlock(buffer) {
    const { tables, isRgb } = this.parameters;
    const adobe = [255, 238, 0, 14, 65, 100, 111, 98, 101, 0, 100, 0, 0, 0, 0, isRgb ? 0 : 1];
    const start = [new Uint8Array([255, 216, ...adobe])];
    if (tables) start.push(new Uint8Array(tables).subarray(2, tables.length - 2));
    const blob = new Blob([...start, new Uint8Array(buffer, 2)], { type: "image/jpeg" });
    return (await decode(blob)).rgb.buffer;
  }
}

async function openTiff(file) {
  const tiff = await fromBlob(file);
  const pages = [];
  for (let k = 0, n = await tiff.getImageCount(); k < n; k++) pages.push(await tiff.getImage(k));
  const best = pages.reduce((a, b) => (b.getWidth() * b.getHeight() > a.getWidth() * a.getHeight() ? b : a));
  const below = best.fileDirectory.hasTag("SubIFDs") ? await best.fileDirectory.loadValue("SubIFDs") : [];
  for (const offset of below) {
    const directory = await tiff.parser.parseFileDirectoryAt(Number(offset));
    pages.push(new GeoTIFFImage(directory, tiff.littleEndian, false, tiff.source));
  }
  await requireReadable(file, best);
  const size = [best.getWidth(), best.getHeight()];
  const isLevel = (page) => {
    const scale = [size[0] / page.getWidth(), size[1] / page.getHeight()];
    return page.isTiled && Math.abs(scale[0] / scale[1] - 1) < 0.05
      && page.getSamplesPerPixel() === best.getSamplesPerPixel();
  };
  const chosen = [best, ...pages.filter((page) => page !== best && isLevel(page))];
  const levels = chosen.map((page) => ({ page, size: [page.getWidth(), page.getHeight()] }))
    .sort((a, b) => b.size[0] - a.size[0]);
  for (const level of levels) {
    level.downsample = size.map((n, i) => {
      const whole = Math.round(n / level.size[i]); // levels are cut to whole pixels
      return Math.abs(n / whole - level.size[i]) < 1 ? whole : n / level.size[i];
    });
  }
  await Promise.all(levels.map(prepare));
  const tiles = new Map();
  const read = (level, ...box) => readTiles(levels[level], tiles, level, ...box);
  return { size, ...await pixelSize(best, size), levels, read };
}

/* Refuse what geotiff.js or the browser cannot decode. */
async function requireReadable(file, page) {
  const directory = page.fileDirectory;
  const compression = directory.hasTag("Compression") ? await directory.loadValue("Compression") : 1;
  const samples = page.getSamplesPerPixel();
  const refuse = (what) => {
    throw new Error(`${file.name}: ${what}, which this page cannot read; ${ASIDE}.`);
  };
  if (directory.hasTag(65420)) refuse("is a Hamamatsu NDPI slide");
  if ([33003, 33005, 34712].includes(compression)) refuse("its tiles are in JPEG 2000");
  if (![1, 5, 7, 8, 32946, 32773, 50000, 50001].includes(compression)) {
    refuse(`is compressed in a way (${compression})`);
  }
  if (page.getBitsPerSample() !== 8 || ![1, 3, 4].includes(samples)) {
    refuse(`has ${samples} channels of ${page.getBitsPerSample()} bits`);
  }
  if (page.planarConfiguration === 2) refuse("stores each colour separately");
}

async function prepare(level) {
  const directory = level.page.fileDirectory;
  const value = async (name) => (directory.hasTag(name) ? directory.loadValue(name) : undefined);
  if ((await value("Compression")) !== 7) return;
  const parameters = {
    tileWidth: level.page.getTileWidth(), tileHeight: level.page.getTileHeight(), predictor: 1,
    tables: await value("JPEGTables"), isRgb: (await value("PhotometricInterpretation")) === 2,
  };
  level.decoder = new NativeJpeg(parameters);
}

async function readTile({ page, size, decoder }, column, row) {
  const [width, height] = [page.getTileWidth(), page.getBlockHeight(row)];
  if (decoder) {
    const { data } = await page.getTileOrStrip(column, row, 0, decoder);
    return { rgb: new Uint8ClampedArray(data), width };
  }
  const corner = [column * width, row * page.getTileHeight()];
  const end = [Math.min(corner[0] + width, size[0]), Math.min(corner[1] + height, size[1])];
  const rgb = await page.readRGB({ window: [...corner, ...end], interleave: true });
  return { rgb, width: end[0] - corner[0] };
}

async function readTiles(level, tiles, number, x, y, width, height) {
  const { page } = level;
  const side = [page.getTileWidth(), page.getTileHeight()];
  const result = new Uint8ClampedArray(width * height * 3);
  const first = [Math.floor(x / side[0]), Math.floor(y / side[1])];
  const last = [Math.floor((x + width - 1) / side[0]), Math.floor((y + height - 1) / side[1])];
  const wanted = [];
  for (let row = first[1]; row <= last[1]; row++) {
    for (let column = first[0]; column <= last[0]; column++) {
      const key = `${number}/${column}/${row}`;
      const tile = tiles.get(key) ?? readTile(level, column, row);
      tiles.delete(key);
      tiles.set(key, tile);
      wanted.push({ tile, column, row });
    }
  }
  for (const { tile, column, row } of wanted) {
    const { rgb, width: own } = await tile;
    const [left, top] = [column * side[0], row * side[1]];
    const [from, to] = [Math.max(x, left), Math.min(x + width, left + side[0])];
    for (let at = Math.max(y, top); at < Math.min(y + height, top + side[1]); at++) {
      const start = ((at - top) * own + from - left) * 3;
      result.set(rgb.subarray(start, start + (to - from) * 3), ((at - y) * width + from - x) * 3);
    }
  }
  for (const key of tiles.keys()) if (tiles.size > MOST_TILES) tiles.delete(key);
  return result;
}

/* The um per pixel that a TIFF states, {mpp, source}: Aperio's, OME-XML's or the resolution tags. */
async function pixelSize(page, size) {
  const directory = page.fileDirectory;
  const value = async (name) => (directory.hasTag(name) ? directory.loadValue(name) : undefined);
  const description = (await value("ImageDescription")) ?? "";
  const aperio = /\|\s*MPP\s*=\s*([\d.]+)/.exec(description);
  if (aperio) return { mpp: [Number(aperio[1]), Number(aperio[1])], source: "scanner" };
  const ome = /<Pixels\b[^>]*>/.exec(description)?.[0];
  const attribute = (name) => new RegExp(`\\b${name}="([^"]*)"`).exec(ome)?.[1];
  const sides = ["X", "Y"].map((axis) =>
    Number(attribute(`PhysicalSize${axis}`)) * MICRONS[attribute(`PhysicalSize${axis}Unit`) ?? "µm"]);
  if (ome && sides.every((side) => side > 0)) return { mpp: sides, source: "scanner" };
  const unit = { 2: 25400, 3: 10000 }[await value("ResolutionUnit")];
  const stated = await Promise.all(["XResolution", "YResolution"].map(value));
  const tags = stated.map((each) => unit / (Array.isArray(each) || ArrayBuffer.isView(each) ? each[0] / (each[1] ?? 1) : each));
  const isFine = tags.every((side) => side >= 0.02 && side <= 10);
  return isFine ? { mpp: tags, source: "resolution tags" } : { mpp: null, source: "" };
}
