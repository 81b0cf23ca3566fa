/* The gallery: pictures of the surest, the least sure and some random nuclei of a class; a click goes to the nucleus. */
"use strict";

(() => {
  const SIDE_UM = 20;
  const SIDE_PX = 104; // side of a canvas, which is shown smaller
  const MOST_TILES = 40;
  const { el } = muse;
  const tiles = new Map();
  let select, body, details;

  muse.startGallery = () => {
    const { slide } = muse;
    if (!slide.gallery.length) return;
    select = el("select", { id: "gallery-class", change: fill, "aria-label": "Class of the gallery" },
      ...slide.classes.map((each, label) => el("option", { value: label }, each.name)));
    body = el("div");
    details = el("details", { className: "gallery", id: "gallery", toggle: () => details.open && fill() },
      el("summary", {}, "Show nuclei by sureness"), select, body);
    document.getElementById("panel").append(muse.section("Gallery", details));
    muse.keys.set("g", () => {
      details.open = !details.open;
      if (details.open) select.focus();
    });
  };

  function fill() {
    const entries = muse.slide.gallery.filter((entry) => entry.label === Number(select.value));
    body.replaceChildren(...entries.flatMap(({ kind, nuclei }) => [
      el("h3", {}, kind),
      el("div", { className: "thumbnails" }, ...nuclei.map((nucleus) => thumbnail(nucleus))),
    ]));
    if (!entries.length) body.replaceChildren(el("p", { className: "note" }, "No nuclei of this class."));
  }

  function thumbnail([row, x, y, sureness]) {
    const um = [x * muse.slide.mpp[0], y * muse.slide.mpp[1]];
    const canvas = el("canvas", { width: SIDE_PX, height: SIDE_PX });
    const percent = `${Math.round(sureness * 100)} %`;
    const button = el("button", {
      type: "button", title: percent, "aria-label": `Go to nucleus ${row}, ${percent}`,
      click: () => {
        muse.goTo(...um, 0.25);
        muse.ring(...um);
      },
    }, canvas);
    paint(canvas.getContext("2d"), um, row);
    return button;
  }

  async function paint(pen, [x, y], row) {
    const scale = SIDE_PX / SIDE_UM;
    const left = x - SIDE_UM / 2;
    const top = y - SIDE_UM / 2;
    pen.fillStyle = `rgb(${muse.image.glass.join(",")})`;
    pen.fillRect(0, 0, SIDE_PX, SIDE_PX);
    if (muse.slide.image) await paintTiles(pen, left, top, scale);
    const [chunk] = await muse.loadAll(muse.chunksIn(x - 0.01, y - 0.01, x + 0.01, y + 0.01));
    const ring = muse.outline(chunk, chunk.rows.indexOf(row));
    pen.beginPath();
    for (let k = 0; k < ring.length; k += 2) pen.lineTo((ring[k] - left) * scale, (ring[k + 1] - top) * scale);
    pen.closePath();
    pen.lineWidth = 5;
    pen.strokeStyle = "rgb(255 255 255 / 60%)";
    pen.stroke();
    pen.lineWidth = 3;
    pen.strokeStyle = muse.colorOf(Math.min(chunk.label[chunk.rows.indexOf(row)], muse.slide.classes.length));
    pen.stroke();
  }

  async function paintTiles(pen, left, top, scale) {
    const { mpp, tile_px: side, tiles: names } = muse.image;
    const known = new Set(names[0]);
    const columns = [left, left + SIDE_UM].map((um) => Math.floor(um / mpp / side));
    const rows = [top, top + SIDE_UM].map((um) => Math.floor(um / mpp / side));
    for (let row = rows[0]; row <= rows[1]; row++) {
      for (let column = columns[0]; column <= columns[1]; column++) {
        if (!known.has(`${column}_${row}`)) continue;
        const tile = await loadTile(`${muse.image.folder}/0/${column}_${row}.jpg`);
        const zoom = mpp * scale;
        pen.drawImage(tile, (column * side * mpp - left) * scale, (row * side * mpp - top) * scale, tile.width * zoom, tile.height * zoom);
      }
    }
  }

  function loadTile(address) {
    if (!tiles.has(address)) {
      const tile = new Image();
      tiles.set(address, new Promise((resolve) => {
        tile.onload = tile.onerror = () => resolve(tile);
        tile.src = address;
      }));
      if (tiles.size > MOST_TILES) tiles.delete(tiles.keys().next().value);
    }
    return tiles.get(address);
  }
})();
