"use strict";
// Draws the queued figures one after another, those in sight first, and keeps the page usable meanwhile.
(function () {
  const queue = window.geocbmPlots || [];

  function fail(place, reason) {
    place.textContent = "This figure could not be drawn (" + reason + "). Its description is below.";
    place.classList.add("undrawn");
  }

  function draw(entry) {
    const place = document.getElementById(entry[0]);
    if (!window.Plotly) {
      fail(place, "_assets/plotly.min.js is missing");
      return;
    }
    try {
      Promise.resolve(entry[1](place)).catch(function (error) { fail(place, String(error)); });
    } catch (error) {
      fail(place, String(error));
    }
  }

  const inSight = [];
  const below = [];
  queue.forEach(function (entry) {
    const box = document.getElementById(entry[0]).getBoundingClientRect();
    (box.top < window.innerHeight ? inSight : below).push(entry);
  });
  const order = inSight.concat(below);
  (function next() {
    const entry = order.shift();
    if (entry) {
      draw(entry);
      setTimeout(next, 0);
    }
  })();

  const button = document.getElementById("code-switch");
  if (button) {
    button.addEventListener("click", function () {
      const open = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(open));
      button.textContent = open ? "Hide all code" : "Show all code";
      document.querySelectorAll("details.code").forEach(function (part) { part.open = open; });
    });
  }
})();
