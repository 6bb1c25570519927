(() => {
  "use strict";
  const EDGE = 14, REACH = 28, TALLEST = 640, MOVE = 450, SHOWN = 84;
  const root = document.getElementById("scatter");
  const data = JSON.parse(document.getElementById("scatter-data").textContent);
  const canvas = root.querySelector("canvas"), context = canvas.getContext("2d");
  const ring = root.querySelector(".ring"), card = root.querySelector(".card"), thumb = root.querySelector("#thumb");
  const note = card.querySelector("span");
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
  const maps = data.maps.map((map) => new Uint16Array(bytes(map.points)));
  const labels = data.labels ? new Uint16Array(bytes(data.labels)) : new Uint16Array(data.count);
  const positions = new Uint32Array(bytes(data.positions));
  const off = new Set();
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  const everyone = Array.from({ length: data.count }, (_, at) => at);
  const sheet = new Image();
  const cut = document.createElement("canvas");
  [cut.width, cut.height] = data.size;
  const zoom = Math.max(1, Math.floor(SHOWN / Math.max(...data.size)));
  thumb.width = data.size[0] * zoom;
  thumb.height = data.size[1] * zoom;

  let places = Float32Array.from(maps[0]), chosen = -1, side = 0, left = 0, frame = 0;
  const x = (at) => left + EDGE + (places[2 * at] / 65535) * (side - 2 * EDGE);
  const y = (at) => EDGE + (places[2 * at + 1] / 65535) * (side - 2 * EDGE);
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim() || "gray";
  const shown = (at) => !off.has(labels[at]);

  function resize() {
    const width = canvas.clientWidth, ratio = window.devicePixelRatio || 1;
    if (!width || width === canvas.shownWidth) return;
    canvas.shownWidth = width;
    choose(-1);
    side = Math.min(width, TALLEST);
    left = (width - side) / 2;
    canvas.style.height = `${side}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(side * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw();
  }

  function draw() {
    const size = Math.max(1.1, Math.min(4, (side / 640) * 150 / Math.sqrt(data.count)));
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.globalAlpha = 0.8;
    for (const at of everyone) {
      if (!shown(at)) continue;
      context.fillStyle = data.colours[labels[at]];
      context.beginPath();
      context.arc(x(at), y(at), size, 0, 7);
      context.fill();
    }
    if (!frame) name();
  }

  function name() {  // classes at their medians, pushed apart where they would overlap
    const middle = (values) => values.sort((one, other) => one - other)[values.length >> 1];
    context.font = `600 ${side < 480 ? 11 : 12.5}px ${colour("--sans")}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const boxes = [];
    data.names.forEach((text, label) => {
      const members = everyone.filter((at) => labels[at] === label);
      if (off.has(label) || !members.length) return;
      const half = context.measureText(text).width / 2 + 6;
      const across = Math.min(Math.max(middle(members.map(x)), half), left * 2 + side - half);
      boxes.push({ text, label, half, x: across, y: middle(members.map(y)) });
    });
    for (let round = 0; round < 100; round++) {
      for (const one of boxes) for (const other of boxes) {
        const over = 20 - Math.abs(one.y - other.y);
        if (one === other || over <= 0 || Math.abs(one.x - other.x) >= one.half + other.half) continue;
        const step = (one.y === other.y ? one.label < other.label : one.y < other.y) ? over / 2 : -over / 2;
        one.y -= step;
        other.y += step;
      }
    }
    for (const box of boxes) {
      context.globalAlpha = 0.88;
      context.fillStyle = colour("--paper");
      context.strokeStyle = data.colours[box.label];
      context.lineWidth = 1.5;
      context.beginPath();
      context.roundRect(box.x - box.half, box.y - 9.5, 2 * box.half, 19, 5);
      context.fill();
      context.globalAlpha = 1;
      context.stroke();
      context.fillStyle = colour("--ink");
      context.fillText(box.text, box.x, box.y + 0.5);
    }
  }

  function choose(at) {
    if (at === chosen) return;
    chosen = at;
    for (const part of [card, ring]) part.classList.toggle("shown", at >= 0);
    if (at >= 0) fill(at);
  }

  function fill(at) {
    const [width, tall] = data.size, pen = cut.getContext("2d");
    if (sheet.complete && sheet.naturalWidth) {
      const row = Math.floor(at / data.columns), column = at % data.columns;
      pen.drawImage(sheet, column * data.pitch[0], row * data.pitch[1], width, tall, 0, 0, width, tall);
      thumb.src = cut.toDataURL();
    }
    const label = data.names[labels[at]], index = `test image ${positions[at]}`;
    thumb.alt = label ? `${label}, ${index}` : index;
    note.replaceChildren(...(label ? [label] : []), Object.assign(document.createElement("small"), { textContent: index }));
    const beyond = x(at) + 16 + card.offsetWidth > canvas.clientWidth;
    const across = beyond ? Math.max(4, x(at) - 16 - card.offsetWidth) : x(at) + 16;
    const down = Math.min(Math.max(y(at) - card.offsetHeight / 2, 4), side - card.offsetHeight - 4);
    ring.style.transform = `translate(${x(at)}px, ${y(at)}px)`;
    card.style.transform = `translate(${across}px, ${down}px)`;
  }

  function nearest(px, py, reach, allowed = () => true) {
    let best = -1, least = reach * reach;
    for (let at = 0; at < data.count; at++) {
      const distance = (x(at) - px) ** 2 + (y(at) - py) ** 2;
      if (distance < least && shown(at) && allowed(at)) [best, least] = [at, distance];
    }
    return best;
  }

  function show(map) {  // the dots travel to their places on the other map
    choose(-1);
    cancelAnimationFrame(frame);
    const from = places.slice(), target = maps[map], start = performance.now();
    const step = (now) => {
      const part = still.matches ? 1 : Math.min(1, Math.max(0, now - start) / MOVE);
      const eased = part * part * (3 - 2 * part);
      for (let at = 0; at < places.length; at++) places[at] = from[at] + (target[at] - from[at]) * eased;
      frame = part < 1 ? requestAnimationFrame(step) : 0;
      draw();
    };
    frame = requestAnimationFrame(step);
  }

  const point = (event) => choose(nearest(event.offsetX, event.offsetY, REACH));
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && choose(-1));
  canvas.addEventListener("blur", () => choose(-1));
  canvas.addEventListener("keydown", (event) => {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Escape") return choose(-1);
    if (!ways[event.key]) return;
    event.preventDefault();
    if (chosen < 0) return choose(nearest(left + side / 2, side / 2, Infinity));
    const [right, down] = ways[event.key], [px, py] = [x(chosen), y(chosen)];
    const ahead = (at) => {
      const along = (x(at) - px) * right + (y(at) - py) * down;
      const aside = Math.abs((x(at) - px) * down) + Math.abs((y(at) - py) * right);
      return at !== chosen && along > 2 && along >= aside;
    };
    const next = nearest(px, py, Infinity, ahead);
    if (next >= 0) choose(next);
  });
  root.querySelectorAll("input").forEach((input) => input.addEventListener("change", () => show(Number(input.value))));
  root.querySelectorAll("button").forEach((button) => button.addEventListener("click", () => {
    const label = Number(button.dataset.class), on = off.delete(label);
    if (!on) off.add(label);
    button.setAttribute("aria-pressed", String(on));
    choose(-1);
    draw();
  }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  root.querySelectorAll("[hidden]").forEach((part) => { part.hidden = false; });
  new ResizeObserver(resize).observe(canvas.parentElement);
  sheet.src = data.sheet;
})();
