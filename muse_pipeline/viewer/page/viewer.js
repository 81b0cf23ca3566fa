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
    const deepest = image.tiles.length - 1;
    const tiles = image.tiles.map((names) => new Set(names));
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
      tileSources: {
        width: image.size_px[0],
        height: image.size_px[1],
        tileSize: image.tile_px,
        minLevel: 0,
        maxLevel: deepest,
        tileExists: (level, x, y) => level >= 0 && level <= deepest && tiles[deepest - level].has(`${x}_${y}`),
        getTileUrl: (level, x, y) => `${image.folder}/${deepest - level}/${x}_${y}.jpg`,
      },
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
