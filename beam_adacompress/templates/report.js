(() => {
  "use strict";

  // Pictures: the original shows while a pointer rests on the result; a tap, a click or Enter turns it over.
  for (const picture of document.querySelectorAll(".flip")) {
    const show = (original) => picture.setAttribute("aria-pressed", String(original));
    let hovered = false;
    picture.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse") { hovered = true; show(true); }
    });
    picture.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && hovered) { hovered = false; show(false); }
    });
    picture.addEventListener("click", () => show(picture.getAttribute("aria-pressed") !== "true"));
  }

  // Plots: what a point says stands below them; the arrow keys go from point to point.
  for (const plot of document.querySelectorAll(".plot")) {
    const readout = plot.querySelector(".readout");
    const hint = readout.textContent;
    const marks = () => [...plot.querySelectorAll(".mark")].filter((mark) => mark.getClientRects().length);
    const say = (mark) => {
      for (const each of plot.querySelectorAll(".mark.on")) each.classList.remove("on");
      if (mark) mark.classList.add("on");
      readout.textContent = mark ? mark.getAttribute("aria-label") : hint;
    };
    for (const kind of ["pointerover", "focusin", "click"]) {
      plot.addEventListener(kind, (event) => {
        const mark = event.target.closest(".mark");
        if (mark) say(mark);
      });
    }
    plot.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") say(plot.querySelector(".mark:focus"));
    });
    plot.addEventListener("keydown", (event) => {
      const all = marks();
      const here = all.indexOf(document.activeElement);
      const last = all.length - 1;
      const steps = { ArrowRight: here + 1, ArrowUp: here + 1, ArrowLeft: here - 1, ArrowDown: here - 1, Home: 0, End: last };
      if (here < 0 || !(event.key in steps)) return;
      event.preventDefault();
      const next = all[Math.max(0, Math.min(last, steps[event.key]))];
      all[here].setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  }
})();
