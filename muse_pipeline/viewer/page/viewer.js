/* The image, shown by OpenSeadragon from a pyramid of JPEG tiles; the position of the view, and links to it. */
"use strict";

(() => {
  const OWN_KEYS = ["KeyR", "KeyF"]; // OpenSeadragon would rotate and mirror the slide
  let osd, image, imageUm;

  muse.startViewer = () => {
    const { slide } = muse;
    image = slide.image || blankImage(slide);
    imageUm = image.size_px[0] * image.mpp;
    const glass = `rgb(${image.glass.join(",")})`;
    document.documentElement.style.setProperty("--glass", glass);
    muse.isOpen = false;
    if (osd) osd.destroy();
    osd = OpenSeadragon({
      element: document.getElementById("image"),
      drawer: "canvas", // WebGL cannot show images from file://
      showNavigationControl: false,
      showNavigator: Boolean(slide.image),
      navigatorPosition: "TOP_LEFT",
      navigatorSizeRatio: 0.14,
      navigatorAutoFade: false,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: false },
      animationTime: 0.3,
      springStiffness: 8,
      maxZoomPixelRatio: 12,
      minZoomImageRatio: 0.6,
      visibilityRatio: 0.3,
      imageLoaderLimit: 6,
      placeholderFillStyle: glass,
      tileSources: image.source || tilesOf(image),
    });
    muse.osd = osd;
    muse.image = image;
    muse.startDrawing(osd.canvas);
    osd.addHandler("open", () => {
      muse.isOpen = true;
      goToLink();
      osd.addHandler("update-viewport", muse.frame);
      osd.addHandler("animation-finish", noteLink);
      osd.addHandler("resize", muse.frame);
      muse.changed();
      muse.frame();
      muse.events.dispatchEvent(new Event("open"));
    });
    osd.addHandler("canvas-key", (event) => {
      event.preventDefaultAction = OWN_KEYS.includes(event.originalEvent.code);
    });
    window.addEventListener("hashchange", goToLink);
  };

  /* The tiles in the folder of an image. */
  function tilesOf({ size_px: [width, height], tile_px: tileSize, tiles: names, folder }) {
    const maxLevel = names.length - 1;
    const tiles = names.map((each) => new Set(each));
    return {
      width, height, tileSize, minLevel: 0, maxLevel,
      tileExists: (level, x, y) => level >= 0 && level <= maxLevel && tiles[maxLevel - level].has(`${x}_${y}`),
      getTileUrl: (level, x, y) => `${folder}/${maxLevel - level}/${x}_${y}.jpg`,
    };
  }

  /* A white image, for a slide whose store was removed. */
  function blankImage(slide) {
    const mpp = 0.5;
    return { mpp, glass: [255, 255, 255], tile_px: 1024, size_px: slide.size_px.map((n, i) => Math.ceil((n * slide.mpp[i]) / mpp)), tiles: [[]] };
  }

  /* The view: its corner in um, screen px per um, width and height in screen px. */
  muse.view = () => {
    const { viewport } = osd;
    const size = viewport.getContainerSize();
    const bounds = viewport.getBounds(true);
    return { left: bounds.x * imageUm, top: bounds.y * imageUm, scale: size.x / (bounds.width * imageUm), width: size.x, height: size.y };
  };

  /* Centre the view on a position in um, at a number of um per screen px. */
  muse.goTo = (x, y, umPerPx) => {
    const { viewport } = osd;
    const zoom = imageUm / (viewport.getContainerSize().x * umPerPx);
    viewport.zoomTo(zoom, null, true);
    viewport.panTo(new OpenSeadragon.Point(x / imageUm, y / imageUm), true);
    viewport.update();
    osd.world.update(true); // OpenSeadragon itself compares with the viewport's last update
    osd.forceRedraw();
    muse.frame();
    noteLink();
  };

  /* Let boxes be dragged while `isStart(event)` holds at the first move; `done` receives each, in um. */
  muse.dragBoxes = (isStart, done) => {
    const rubber = document.createElement("div");
    rubber.className = "rubber";
    osd.canvas.append(rubber);
    rubber.hidden = true;
    let from = null;
    osd.addHandler("canvas-drag", (event) => {
      if (!from && !isStart(event)) return;
      event.preventDefaultAction = true;
      from = from || { x: event.position.x - event.delta.x, y: event.position.y - event.delta.y };
      const [x, y] = [Math.min(from.x, event.position.x), Math.min(from.y, event.position.y)];
      const [width, height] = [Math.abs(event.position.x - from.x), Math.abs(event.position.y - from.y)];
      Object.assign(rubber.style, { left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px` });
      rubber.hidden = false;
    });
    osd.addHandler("canvas-drag-end", (event) => {
      if (!from) return;
      const [a, b] = [muse.toSlide(from), muse.toSlide(event.position)];
      from = null;
      rubber.hidden = true;
      event.preventDefaultAction = true;
      done([Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])]);
    });
  };

  /* Show a ring around a position in um, in place of an earlier ring. */
  muse.ring = (x, y) => {
    const element = document.getElementById("ring") || Object.assign(document.createElement("div"), { id: "ring" });
    osd.removeOverlay(element);
    osd.addOverlay({ element, location: new OpenSeadragon.Point(x / imageUm, y / imageUm), placement: "CENTER", checkResize: false });
  };

  muse.fit = () => osd.viewport.goHome(true);
  muse.zoomBy = (factor) => osd.viewport.zoomBy(factor);
  muse.setImageOpacity = (opacity) => osd.world.getItemCount() && osd.world.getItemAt(0).setOpacity(opacity);

  /* True if all tiles and nuclei of the view are drawn. */
  muse.isReady = () => Boolean(muse.isOpen && osd.world.getItemAt(0).getFullyLoaded() && muse.isDrawn());

  muse.toQuPath = (x, y) => [x / muse.slide.mpp[0] - muse.slide.offset_px[0], y / muse.slide.mpp[1] - muse.slide.offset_px[1]];
  muse.fromQuPath = (x, y) => [(x + muse.slide.offset_px[0]) * muse.slide.mpp[0], (y + muse.slide.offset_px[1]) * muse.slide.mpp[1]];

  /* Position on the slide, in um, from a position in the view. */
  muse.toSlide = (position) => {
    const view = muse.view();
    return [view.left + position.x / view.scale, view.top + position.y / view.scale];
  };

  muse.middle = () => {
    const view = muse.view();
    return [view.left + view.width / view.scale / 2, view.top + view.height / view.scale / 2];
  };

  /* The address of this view, with its middle in QuPath pixels and um per screen px. */
  muse.link = () => {
    const [x, y] = muse.toQuPath(...muse.middle());
    return `${location.href.split("#")[0]}#at=${x.toFixed(1)},${y.toFixed(1)},${(1 / muse.view().scale).toPrecision(4)}`;
  };

  let noted = "";

  function noteLink() {
    noted = muse.link().split("#")[1];
    history.replaceState(null, "", `#${noted}`);
  }

  function goToLink() {
    const found = /^#at=(-?[\d.]+),(-?[\d.]+),([\d.]+)$/.exec(location.hash);
    if (!found || location.hash === `#${noted}`) return;
    const [x, y] = muse.fromQuPath(Number(found[1]), Number(found[2]));
    muse.goTo(x, y, Number(found[3]));
  }
})();
