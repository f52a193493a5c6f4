// Enlarges the pictures of one case side by side; all but the photo move together. The page works without it.
"use strict";
(() => {
  const dialog = document.getElementById("zoom");
  if (!dialog || !dialog.showModal) return;
  const panes = dialog.querySelector(".panes"), output = dialog.querySelector("output");
  const view = { scale: 1, x: 0, y: 0 };  // x, y: the shift in shares of a pane's size
  const LARGEST = 32, STEP = 1.5, MOVE = 0.1;

  function draw() {
    const room = (view.scale - 1) / 2;
    view.x = Math.max(-room, Math.min(room, view.x));
    view.y = Math.max(-room, Math.min(room, view.y));
    for (const image of panes.querySelectorAll("[data-follows] img"))
      image.style.transform = `translate(${100 * view.x}%, ${100 * view.y}%) scale(${view.scale})`;
    output.textContent = `${view.scale.toFixed(view.scale < 10 ? 1 : 0)}×`;
  }

  // Zooms around a point given in shares of a pane's size from its middle, which stays where it is.
  function zoom(factor, atX = 0, atY = 0) {
    const scale = Math.max(1, Math.min(LARGEST, view.scale * factor));
    view.x = atX - (atX - view.x) * scale / view.scale;
    view.y = atY - (atY - view.y) * scale / view.scale;
    view.scale = scale;
    draw();
  }

  function move(x, y) { view.x += x; view.y += y; draw(); }
  function reset() { Object.assign(view, { scale: 1, x: 0, y: 0 }); draw(); }

  function open(article) {
    panes.replaceChildren(...[...article.querySelectorAll(".tile")].filter((tile) => tile.querySelector("img")).map((tile) => {
      const pane = document.createElement("figure"), frame = document.createElement("div");
      frame.append(tile.querySelector("img").cloneNode());
      pane.append(frame, tile.querySelector("figcaption").cloneNode(true));
      if (tile.dataset.role !== "photo") pane.dataset.follows = "";
      return pane;
    }));
    reset();
    dialog.showModal();
  }

  function place(frame, x, y) {
    const box = frame.getBoundingClientRect();
    return [(x - box.left) / box.width - 0.5, (y - box.top) / box.height - 0.5];
  }

  const pointers = new Map();
  function spread() {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a.x - b.x, a.y - b.y);
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.enlarge");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    open(link.closest(".case"));
  });
  dialog.addEventListener("click", (event) => {
    const does = event.target.dataset.zoom;
    if (does === "in") zoom(STEP);
    else if (does === "out") zoom(1 / STEP);
    else if (does === "reset") reset();
    else if (does === "close" || event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => { pointers.clear(); panes.replaceChildren(); });
  dialog.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [MOVE, 0], ArrowRight: [-MOVE, 0], ArrowUp: [0, MOVE], ArrowDown: [0, -MOVE] };
    if (event.key in moves) move(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") zoom(STEP);
    else if (event.key === "-") zoom(1 / STEP);
    else if (event.key === "0") reset();
    else return;
    event.preventDefault();
  });
  panes.addEventListener("wheel", (event) => {
    const frame = event.target.closest("figure > div");
    if (!frame) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 300), ...place(frame, event.clientX, event.clientY));
  }, { passive: false });
  panes.addEventListener("dblclick", (event) => {
    const frame = event.target.closest("figure > div");
    if (frame) zoom(2, ...place(frame, event.clientX, event.clientY));
  });
  panes.addEventListener("pointerdown", (event) => {
    const frame = event.target.closest("figure > div");
    if (!frame) return;
    event.preventDefault();
    frame.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  panes.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId), frame = event.target.closest("figure > div");
    if (!last || !frame) return;
    const before = pointers.size === 2 ? spread() : 0, box = frame.getBoundingClientRect();
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (before) zoom(spread() / before);
    else move((event.clientX - last.x) / box.width, (event.clientY - last.y) / box.height);
  });
  for (const end of ["pointerup", "pointercancel"])
    panes.addEventListener(end, (event) => pointers.delete(event.pointerId));
})();
