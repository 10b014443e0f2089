"use strict";
(() => {
  const data = JSON.parse(document.getElementById("found").textContent);
  const match = document.querySelector(".match");
  const stages = [...match.querySelectorAll(".stage")];
  const threads = match.querySelector(".threads");
  const said = document.querySelector(".said");
  const modes = document.querySelector(".modes");
  const colours = ["--for", "--not"].map(
    (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  const names = ["the photograph", "the gallery photograph"];
  let mode = data.modes[0], chosen = null;

  // A map of rows by columns, drawn a pixel a place; the browser smooths it.
  function paint(side, values) {
    const canvas = stages[side].querySelector("canvas");
    stages[side].classList.toggle("greyed", Boolean(values));
    const [rows, columns] = data.grids[side];
    canvas.width = columns;
    canvas.height = rows;
    if (!values) return;
    const context = canvas.getContext("2d");
    const sizes = values.map(Math.abs).sort((a, b) => b - a);
    const most = sizes[Math.floor(sizes.length / 100)] || 1;
    values.forEach((value, place) => {
      const strength = Math.min(1, Math.abs(value) / most);
      context.fillStyle = `rgba(${colours[value < 0 ? 1 : 0]}, ${0.7 * strength ** 0.8})`;
      context.fillRect(place % columns, Math.floor(place / columns), 1, 1);
    });
  }

  function box(side) {
    const outer = match.getBoundingClientRect(), inner = stages[side].getBoundingClientRect();
    return [inner.left - outer.left, inner.top - outer.top, inner.width, inner.height];
  }

  function draw(kind, attributes, within = threads) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
    within.append(made);
    return made;
  }

  function at(side, [x, y]) {
    const [left, top, width, height] = box(side);
    return [left + x * width, top + y * height];
  }

  function middle(side, place) {
    const [rows, columns] = data.grids[side];
    return [(place % columns + 0.5) / columns, (Math.floor(place / columns) + 0.5) / rows];
  }

  function outline(side, place) {
    const [rows, columns] = data.grids[side], [left, top, width, height] = box(side);
    draw("rect", { class: "place", rx: 3, width: width / columns, height: height / rows,
      x: left + (place % columns) / columns * width,
      y: top + Math.floor(place / columns) / rows * height });
  }

  // One of so many lines: the more there are, the more is seen through them.
  function join(one, other, many) {
    const [x1, y1] = at(0, one), [x2, y2] = at(1, other);
    const opacity = Math.min(0.75, Math.max(0.2, 25 / many));
    draw("line", { x1, y1, x2, y2, ...(many ? { class: "fine", style: `opacity:${opacity}` } : {}) });
    [[x1, y1], [x2, y2]].forEach(([cx, cy]) => draw("circle", { cx, cy, r: 3, class: "dot" }));
  }

  const number = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(4);
  const greatest = (values) => values.reduce((best, value, i) => value > values[best] ? i : best, 0);

  function places() {
    const links = data.links;
    if (chosen === null) {
      data.maps.forEach((map, side) => paint(side, map));
      links.forEach(([one, other]) => join(one, other, links.length));
      say(`The lines join the pairs of places with the largest shares. ` +
        `Together all places make the similarity of ${data.similarity.toFixed(3)}.`);
      return;
    }
    const { side, place } = chosen, other = 1 - side;
    const columns = data.maps[1].length;
    const row = side === 0
      ? data.pairs.slice(place * columns, (place + 1) * columns)
      : data.maps[0].map((_, i) => data.pairs[i * columns + place]);
    const partner = greatest(row);
    paint(side, null);
    paint(other, row);
    outline(side, place);
    outline(other, partner);
    const ends = side === 0 ? [middle(0, place), middle(1, partner)]
                            : [middle(0, partner), middle(1, place)];
    join(ends[0], ends[1]);
    say(`This place of ${names[side]} adds ${number(data.maps[side][place])} to the similarity of ` +
      `${data.similarity.toFixed(3)}. Of the other photograph it shares most with the place ` +
      `outlined: ${number(row[partner] * data.unit)}.`);
  }

  function pieces() {
    data.maps.forEach((map, side) => paint(side, null));
    const most = Math.max(...data.pieces.flat().map((one) => Math.abs(one[5])), 1e-12);
    data.pieces.forEach((found, side) => {
      stages[side].classList.add("greyed");
      found.forEach(([line, x1, y1, x2, y2, value]) => {
        const colour = `rgba(${colours[value < 0 ? 1 : 0]}, ${0.25 + 0.75 * Math.abs(value) / most})`;
        const [a, b] = at(side, [x1, y1]), [c, d] = at(side, [x2, y2]);
        const width = 1 + 2.5 * Math.abs(value) / most;
        const style = `stroke:${colour};stroke-width:${width};fill:none`;
        if (line) draw("line", { x1: a, y1: b, x2: c, y2: d, style });
        else draw("rect", { x: a, y: b, width: c - a, height: d - b, rx: 2, style });
      });
    });
    say("What adds most to the similarity, and what takes most off it, of all that the two " +
      "photographs are described by.");
  }

  function matches() {
    data.maps.forEach((map, side) => paint(side, null));
    data.matches.forEach(([one, other]) => join(one, other, data.matches.length));
    if (data.frame) {
      // Cut off at the gallery's, lest it run over what is written around.
      const [x, y, width, height] = box(1);
      const points = data.frame.map((one) => `${one[0] * width},${one[1] * height}`).join(" ");
      draw("polygon", { points }, draw("svg", { x, y, width, height }));
    }
    say(data.matched + (data.frame
      ? " The frame is the photograph's in the gallery's, as far as it lies within." : ""));
  }

  function say(text) { said.textContent = text; }

  function show() {
    threads.replaceChildren();
    const [, , width, height] = [0, 0, match.clientWidth, match.clientHeight];
    threads.setAttribute("viewBox", `0 0 ${width} ${height}`);
    ({ Places: places, Matches: matches }[mode] || pieces)();
    [...modes.children].forEach((one) => {
      const now = one.textContent === mode;
      one.setAttribute("aria-checked", now);
      one.tabIndex = now ? 0 : -1;
    });
  }

  function choose(side, place) {
    chosen = place === null ? null : { side, place };
    if (data.modes.includes("Places")) mode = "Places";
    show();
  }

  if (!data.modes.length) return;
  stages.forEach((stage, side) => {
    const [rows, columns] = data.grids[side];
    stage.addEventListener("click", (event) => {
      if (!data.modes.includes("Places")) return;
      const inner = stage.getBoundingClientRect();
      const row = Math.floor((event.clientY - inner.top) / inner.height * rows);
      const column = Math.floor((event.clientX - inner.left) / inner.width * columns);
      const place = Math.min(rows - 1, Math.max(0, row)) * columns +
        Math.min(columns - 1, Math.max(0, column));
      const again = chosen && chosen.side === side && chosen.place === place;
      choose(side, again ? null : place);
    });
    stage.addEventListener("keydown", (event) => {
      if (!data.modes.includes("Places")) return;
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (event.key === "Escape") return choose(side, null);
      if (!step && event.key !== "Enter") return;
      event.preventDefault();
      const from = chosen && chosen.side === side ? chosen.place : null;
      if (from === null || !step) return choose(side, greatest(data.maps[side]));
      const row = Math.min(rows - 1, Math.max(0, Math.floor(from / columns) + step[0]));
      const column = Math.min(columns - 1, Math.max(0, from % columns + step[1]));
      choose(side, row * columns + column);
    });
  });
  if (data.modes.length > 1) {
    data.modes.forEach((name, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("role", "radio");
      button.textContent = name;
      button.addEventListener("click", () => { mode = name; chosen = null; show(); });
      button.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const next = modes.children[(i + step + data.modes.length) % data.modes.length];
        next.focus();
        next.click();
      });
      modes.append(button);
    });
  }
  addEventListener("resize", show);
  addEventListener("load", show);
  show();
})();
