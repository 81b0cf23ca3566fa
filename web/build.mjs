/* Builds muse.html: the viewer's page with its scripts, our script, WebAssembly and the model in it. */

import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const VIEWER = "../muse_pipeline/viewer/";
const BUILT_IN = "../muse_pipeline/inference/built_in/";
const RUNTIME = "node_modules/onnxruntime-web/dist/";
const LEFT_OUT = ["slide.js", "gallery.js", "start.js", "overview.js"]; // files of a finished slide

process.chdir(import.meta.dirname);
const read = (path) => readFileSync(path, "utf8");

const packages = new Set();

async function bundle(entry) {
  const { outputFiles, metafile } = await build({
    entryPoints: [entry], bundle: true, minify: true, format: "iife", write: false, metafile: true,
    target: ["chrome110", "firefox115", "safari16.4"], legalComments: "eof",
  });
  for (const input of Object.keys(metafile.inputs)) {
    const found = /^node_modules\/(@[^/]+\/)?[^/]+/.exec(input);
    if (found) packages.add(found[0]);
  }
  return outputFiles[0].text;
}

/* The licence of a package that is part of the page. */
function licenceOf(folder) {
  const file = readdirSync(folder).find((name) => /^licen[cs]e/i.test(name));
  const { name, license } = JSON.parse(read(`${folder}/package.json`));
  return `${name} (${license})\n${file ? read(`${folder}/${file}`) : ""}`;
}

const assets = {
  worker: Buffer.from(await bundle("src/worker.js")),
  wasm: readFileSync(`${RUNTIME}ort-wasm-simd-threaded.wasm`),
  gpuWasm: readFileSync(`${RUNTIME}ort-wasm-simd-threaded.asyncify.wasm`),
  gpuModel: readFileSync(`${BUILT_IN}compact-fp32.onnx`),
  model: readFileSync(`${BUILT_IN}compact-int8.onnx`),
  measured: readFileSync(`${BUILT_IN}compact.json`),
  refiner: readFileSync(`${BUILT_IN}outlines/refine.onnx`),
};
const own = await bundle("src/page.js");
const licences = [...packages].sort().map(licenceOf);
licences.push(read(`${VIEWER}vendor/OPENSEADRAGON-LICENSE.txt`));
const hashes = [];

/* A script in the page, which the policy allows by its checksum. */
function inline(text) {
  const safe = text.replaceAll("</script", "<\\/script");
  hashes.push(`'sha256-${createHash("sha256").update(safe).digest("base64")}'`);
  return `<script>${safe}</script>`;
}

const block = ([id, bytes]) =>
  `<script type="text/plain" id="${id}">${gzipSync(bytes, { level: 9 }).toString("base64")}</script>`;
const page = read(`${VIEWER}page/index.html`)
  .replace("<!-- title -->", "Nuclei in a browser")
  .replace(/<link [^>]*>/, () => `<style>${read(`${VIEWER}page/viewer.css`)}${read("src/page.css")}</style>`)
  .replace(/<script src="([^"]+)"[^>]*><\/script>\n/g, (_, name) => {
    if (LEFT_OUT.includes(name)) return "";
    return `${inline(read(name.startsWith("open") ? `${VIEWER}vendor/${name}` : `${VIEWER}page/${name}`))}\n`;
  })
  .replace("</body>", () => `<script type="text/plain" id="licences">${licences.join("\n")}</script>\n${Object.entries(assets).map(block).join("\n")}\n${inline(own)}\n</body>`)
  .replace(/(Content-Security-Policy" content=")[^"]*/, (_, start) => `${start}default-src 'none'; `
    + `script-src ${hashes.join(" ")} 'wasm-unsafe-eval'; worker-src blob:; img-src data: blob:; style-src 'unsafe-inline'`);
writeFileSync("muse.html", page);
console.log(`web/muse.html: ${(page.length / 1e6).toFixed(1)} MB`);
