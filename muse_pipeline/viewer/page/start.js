/* The page begins. */
"use strict";
muse.startViewer();
muse.startControls();
muse.startTeaching();
muse.startGallery();
