/* A viewer within the page of a comparison (compare/index.html): it reports its view, and follows that of the other. */
"use strict";

(() => {
  const SAME_PX = 0.5;
  let followed = null;

  muse.startLink = () => {
    if (window.parent === window) return;
    document.body.classList.add("framed");
    window.addEventListener("message", receive);
    muse.osd.addHandler("update-viewport", report);
    muse.events.addEventListener("open", () => window.parent.postMessage({ kind: "open" }, "*"));
  };

  function report() {
    const [x, y] = muse.middle();
    const umPerPx = 1 / muse.view().scale;
    const isSame = followed && Math.hypot(x - followed.x, y - followed.y) < SAME_PX * umPerPx && Math.abs(umPerPx / followed.umPerPx - 1) < 1e-3;
    if (!isSame) window.parent.postMessage({ kind: "view", x, y, umPerPx }, "*");
  }

  function receive({ source, data }) {
    if (source !== window.parent || !muse.isOpen) return;
    if (data.kind === "panel") document.body.classList.toggle("framed");
    else if (data.kind === "view") {
      followed = data;
      muse.goTo(data.x, data.y, data.umPerPx);
    } else if (data.kind === "ring") muse.ring(data.x, data.y);
  }
})();
