"use strict";
(function () {
  // Figures are drawn one after another, those in sight first, and the page stays usable meanwhile.
  const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  // What the figures' theme draws for a white page, and what stands for it on a dark one.
  const shades = JSON.parse(document.currentScript.dataset.shades || "{}"); // none: a page of before
  shades.black = shades["#000000"];

  function shaded(part, name) {
    if (Array.isArray(part)) {
      return part.map(function (each) { return shaded(each, name); });
    }
    if (part && typeof part === "object") {
      Object.keys(part).forEach(function (key) { part[key] = shaded(part[key], key); });
      return part;
    }
    return part === "white" && /bgcolor$/.test(name) ? "#12171D" : (typeof part === "string" && shades[part]) || part;
  }

  function fail(place, reason) {
    place.textContent = "This figure could not be drawn (" + reason + "). Its description is below.";
    place.classList.add("undrawn");
  }

  // A point that carries a picture shows it beside the pointer.
  const picture = document.createElement("img");
  picture.className = "under-pointer";
  picture.alt = "";
  picture.hidden = true;
  document.body.append(picture);

  function showPictures(place) {
    if (!place.on) {
      return;
    }
    place.on("plotly_hover", function (happened) {
      const carried = happened.points[0].customdata;
      if (typeof carried === "string" && carried.startsWith("data:image/jpeg;base64,")) {
        picture.src = carried;
        picture.style.left = Math.min(happened.event.clientX + 16, window.innerWidth - 140) + "px";
        picture.style.top = Math.min(happened.event.clientY + 22, window.innerHeight - 140) + "px";
        picture.hidden = false;
      }
    });
    place.on("plotly_unhover", function () { picture.hidden = true; });
  }

  function draw(entry) {
    if (!window.Plotly) {
      fail(entry.place, "_assets/plotly.min.js is missing");
      return;
    }
    try {
      const figure = JSON.parse(entry.data.textContent);
      Promise.resolve(window.Plotly.newPlot(entry.place, dark ? shaded(figure, "") : figure))
        .then(function () { showPictures(entry.place); })
        .catch(function (error) { fail(entry.place, String(error)); });
    } catch (error) {
      fail(entry.place, String(error));
    }
  }

  const order = [];
  document.querySelectorAll("script[data-of]").forEach(function (data) {
    document.querySelectorAll('[data-figure="' + data.dataset.of + '"]').forEach(function (place) {
      order.push({ place: place, data: data, top: place.getBoundingClientRect().top });
    });
  });
  order.sort(function (one, other) { return one.top - other.top; });
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
      document.querySelectorAll("details.code, details.setup").forEach(function (part) { part.open = open; });
    });
  }

  // A link into a fold opens it, and so does printing.
  function reveal() {
    let part = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const target = part;
    for (; part; part = part.parentElement) {
      if (part.tagName === "DETAILS") {
        part.open = true;
      }
    }
    if (target) {
      target.scrollIntoView();
    }
  }
  window.addEventListener("hashchange", reveal);
  reveal();
  document.querySelectorAll("details.contents a").forEach(function (link) {
    link.addEventListener("click", function () { link.closest("details").open = false; });
  });

  // Tables are sorted by a click on a column's head; a third click gives the order of the page again.
  function number(text) {
    const found = /^[<≈]?\s*([-+−–]?[\d,]*\.?\d+(?:e[-+]?\d+)?)/i.exec(text.trim());
    return found ? Number(found[1].replace(/,/g, "").replace(/[−–]/, "-")) : NaN;
  }

  function compare(one, other) {
    const a = number(one), b = number(other);
    if (isNaN(a) !== isNaN(b)) {
      return isNaN(a) ? 1 : -1;
    }
    return isNaN(a) ? one.localeCompare(other) : a - b;
  }

  document.querySelectorAll("table").forEach(function (table) {
    const body = table.tBodies[0];
    const heads = table.tHead && table.tHead.rows.length === 1 ? Array.from(table.tHead.rows[0].cells) : [];
    if (!body || body.rows.length < 3 || table.querySelector("[colspan], [rowspan]")) {
      return;
    }
    const asMade = Array.from(body.rows);
    heads.forEach(function (head, column) {
      if (!head.textContent.trim()) {
        return;
      }
      const sorter = document.createElement("button");
      sorter.type = "button";
      sorter.className = "sorter";
      sorter.append(...head.childNodes);
      head.append(sorter);
      sorter.addEventListener("click", function () {
        const now = head.getAttribute("aria-sort");
        const then = now === "ascending" ? "descending" : now === "descending" ? "none" : "ascending";
        heads.forEach(function (each) { each.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", then);
        const sign = then === "descending" ? -1 : 1;
        const rows = then === "none" ? asMade : asMade.slice().sort(function (one, other) {
          return sign * compare(one.cells[column].textContent, other.cells[column].textContent);
        });
        body.append(...rows);
      });
    });
  });

  // Long lists of sheets are searched; what matches is shown, and opened when it is the only one.
  document.querySelectorAll(".sheets").forEach(function (list, position) {
    const sheets = Array.from(list.querySelectorAll("details.sheet"));
    const field = document.createElement("input");
    field.type = "search";
    field.id = "search-" + position;
    const label = document.createElement("label");
    label.className = "search";
    label.textContent = "Search " + sheets.length + " sheets ";
    label.append(field);
    const count = document.createElement("span");
    count.setAttribute("role", "status");
    label.append(count);
    list.before(label);
    field.addEventListener("input", function () {
      const wanted = field.value.trim().toLowerCase();
      const shown = sheets.filter(function (sheet) {
        sheet.hidden = wanted !== "" && !sheet.textContent.toLowerCase().includes(wanted);
        return !sheet.hidden;
      });
      count.textContent = wanted ? " " + shown.length + " found" : "";
      if (shown.length === 1) {
        shown[0].open = true;
      }
    });
  });

  // What scrolls sideways can be scrolled by keyboard.
  document.querySelectorAll("pre, .rich, .formula").forEach(function (part) {
    if (part.scrollWidth > part.clientWidth || part.scrollHeight > part.clientHeight) {
      part.tabIndex = 0;
    }
  });

  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details.sheet").forEach(function (part) { part.open = true; });
  });
})();
