/* Start the parts of the page. */
"use strict";
muse.startViewer();
muse.startControls();
muse.startTeaching();
muse.startGallery();
