// Comforts, none of them needed: clips of a pair start together, controls hide, a pointer on a chart reads values,
// clips of a dataset can be picked out.
"use strict";

const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

function ready(video, then) {
  if (video.readyState >= 1) then();
  else video.addEventListener("loadedmetadata", then, { once: true });
}

for (const video of document.querySelectorAll("video")) {
  if (still) {
    video.autoplay = false;
    video.pause();
  } else {
    // Small players are mostly covered by their controls: shown while pointed at.
    video.controls = false;
    for (const kind of ["pointerenter", "focus"]) video.addEventListener(kind, () => { video.controls = true; });
    for (const kind of ["pointerleave", "blur"]) video.addEventListener(kind, () => { video.controls = false; });
    video.tabIndex = 0;
  }
  ready(video, () => { if (video.videoHeight <= 160) video.classList.add("tiny"); });
}

for (const pair of document.querySelectorAll(".pair")) {
  const videos = [...pair.querySelectorAll("video")];
  let waiting = videos.length;
  const begin = () => {
    if (--waiting) return;
    for (const video of videos) { video.currentTime = 0; if (!still) video.play().catch(() => {}); }
  };
  for (const video of videos) ready(video, begin);
}

function nearest(points, step) {
  return points.reduce((best, one) => Math.abs(one[0] - step) < Math.abs(best[0] - step) ? one : best);
}

for (const chart of document.querySelectorAll(".chart[data-points]")) {
  const series = JSON.parse(chart.dataset.points);
  const reading = chart.querySelector(".reading");
  for (const svg of chart.querySelectorAll("svg")) {
    const { left, right, first, last } = Object.fromEntries(Object.entries(svg.dataset).map(([k, v]) => [k, +v]));
    const line = svg.querySelector(".pointer");
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
      const wanted = first + (Math.min(right, Math.max(left, x)) - left) / (right - left) * (last - first);
      const step = nearest(series.flatMap(([, points]) => points), wanted)[0];
      const at = left + (step - first) / (last - first) * (right - left);
      line.setAttribute("x1", at);
      line.setAttribute("x2", at);
      line.style.visibility = "visible";
      reading.textContent = `step ${step}: ` + series.map(([name, points]) => {
        const [found, value] = nearest(points, step);
        return `${name} ${value}` + (found === step ? "" : ` (step ${found})`);
      }).join(", ");
    });
    svg.addEventListener("pointerleave", () => { line.style.visibility = "hidden"; reading.textContent = ""; });
  }
}

for (const bar of document.querySelectorAll(".filters")) {
  const cards = [...document.querySelectorAll(".clipcard")];
  const words = cards.map((card) => card.textContent.toLowerCase());
  const buttons = [...bar.querySelectorAll("button")];
  const find = bar.querySelector("input");
  let shown = "all";
  const pick = () => {
    const wanted = find.value.trim().toLowerCase();
    let count = 0;
    cards.forEach((card, k) => {
      card.hidden = !((shown === "all" || card.dataset.kind === shown) && words[k].includes(wanted));
      count += !card.hidden;
    });
    for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.show === shown);
    bar.querySelector("output").textContent = count === cards.length ? "" : `${count} shown`;
  };
  for (const button of buttons) button.addEventListener("click", () => { shown = button.dataset.show; pick(); });
  find.addEventListener("input", pick);
  bar.hidden = false;
  pick();
}
