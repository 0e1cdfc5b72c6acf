// SPDX-License-Identifier: GPL-2.0-only
// Draws the figures of a replay. Texts of the trace are set as text, never as markup.
"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const extra = data.page || {};
const $ = id => document.getElementById(id);
const PALETTE = ["#2f81f7", "#e16f24", "#2da44e", "#bf4b8a", "#8250df", "#b08800", "#1b9aaa", "#cf222e", "#6e7781", "#57ab5a", "#986ee2"];
const OWNER_COLOURS = ["#8c959f", ["#d8f0dc", "#1d3a28"], ["#a8dcb5", "#2f5f42"], "#6e7781", "#cf222e", "#2f81f7", "#e0b400", "#7d4e00", "#bf4b8a"];
const TYPE_COLOURS = ["#cf222e", "#2f81f7", "#e0b400", "#8250df", "#6e7781", "#1b9aaa"];
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const number = value => Math.round(value).toLocaleString("en-US");
const hex = value => "0x" + value.toString(16);

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let at = 0;
  while (Math.abs(value) >= 1024 && at < units.length - 1) { value /= 1024; at++; }
  return (at ? value.toFixed(1) : value) + " " + units[at];
}
function duration(ns) {
  if (ns >= 3.6e12) return (ns / 3.6e12).toFixed(1) + " h";
  if (ns >= 1e9) return (ns / 1e9).toFixed(2) + " s";
  if (ns >= 1e6) return (ns / 1e6).toFixed(2) + " ms";
  if (ns >= 1e3) return (ns / 1e3).toFixed(1) + " \u00b5s";
  return ns + " ns";
}
// Plotly reads a few HTML tags in labels; a trace's texts shall show them as they are.
const label = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = (text, most) => text.length > most ? text.slice(0, most - 1) + "\u2026" : text;
function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}
function option(select, value, text) {
  const made = element("option", text);
  made.value = value;
  select.append(made);
}
const seconds = ns => (ns - data.first_ns) / 1e9;

// --- charts

function layout(more) {
  const style = getComputedStyle(document.documentElement);
  const [fore, line, card] = ["--fore", "--line", "--card"].map(name => style.getPropertyValue(name).trim());
  const axis = { gridcolor: line, zerolinecolor: line, automargin: true };
  return Object.assign({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: fore, family: "system-ui, sans-serif" }, colorway: PALETTE,
    margin: { l: 55, r: 15, t: 10, b: 45 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, hovermode: "x unified",
    hoverlabel: { bgcolor: card, bordercolor: line, font: { color: fore } },
  }, more, { xaxis: Object.assign({}, axis, more.xaxis), yaxis: Object.assign({}, axis, more.yaxis) });
}
// this script stands before Plotly, so that all else is there while that is being read
const plot = (id, traces, more) => typeof Plotly === "undefined" ? new Promise(() => {}) :
  Plotly.react(id, traces, layout(more), { responsive: true, displaylogo: false, displayModeBar: false });

function freeChart() {
  const samples = extra.samples;
  if (!samples) { $("free-chart").textContent = "The result has no samples by order and migrate type."; return; }
  const chosen = $("zone").value, split = $("split").value;
  const sums = new Map();
  samples.zones.forEach((zone, i) => {
    if (chosen !== "all" && Number(chosen) !== i) return;
    for (const cell of zone.free) {
      const key = cell[split];
      if (!sums.has(key)) sums.set(key, new Float64Array(samples.time_ns.length));
      const sum = sums.get(key);
      cell.pages.forEach((pages, at) => { sum[at] += pages / 256; });
    }
  });
  const x = samples.time_ns.map(seconds);
  const traces = [...sums.keys()].sort((a, b) => a - b).map(key => ({
    x, y: Array.from(sums.get(key)), name: split === "order" ? "order " + key : samples.types[key],
    stackgroup: "free", mode: "lines", line: { width: 0.5 }, hovertemplate: "%{y:.1f} MiB",
  }));
  const slab = samples.slab_pages.map(pages => pages / 256);
  if (chosen === "all") traces.push({ x, y: slab, name: "slabs", mode: "lines", line: { width: 2, dash: "dot", color: "#cf222e" }, hovertemplate: "%{y:.1f} MiB" });
  else for (const [name, dash] of [["min", "solid"], ["low", "dash"], ["high", "dot"]]) {
    const mark = data.zones[Number(chosen)][name] / 256;
    traces.push({ x: [x[0], x[x.length - 1]], y: [mark, mark], name: name + " watermark", mode: "lines", line: { width: 1.5, dash, color: "#6e7781" }, hovertemplate: "%{y:.1f} MiB" });
  }
  traces.push(...events());
  const more = {
    shapes: [momentLine()], xaxis: timeAxis(), yaxis: { title: { text: "MiB" }, rangemode: "tozero" },
    yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
  };
  plot("free-chart", traces, more).then(chart => {
    if (chart.dataset.listens) return;
    chart.dataset.listens = "yes";
    chart.on("plotly_click", event => { if (map) goTo(nearestMoment(event.points[0].x)); });
  });
}
// both charts over time begin and end with the trace
const timeAxis = () => ({ title: { text: "seconds of the trace" }, range: [-0.006, 1.006].map(part => part * Math.max(seconds(data.last_ns), 1e-9)) });
// What went wrong and when, on an axis of its own at the bottom of the chart.
function events() {
  const rows = [], samples = extra.samples;
  const mark = (name, symbol, colour, y, found) => {
    const [x, text] = [found.map(each => each[0]), found.map(each => label(each[1]))];
    if (found.length) rows.push({ x, y: x.map(() => y), text, name, yaxis: "y2", type: "scatter", mode: "markers", cliponaxis: false,
      marker: { symbol, color: colour, size: 9, line: { color: colour, width: 1.5 } }, hovertemplate: "%{text}" });
  };
  // one by one where all are known, else by how many there were from one sample to the next
  const between = key => samples[key].flatMap((count, i) => {
    const more = i ? count - samples[key][i - 1] : count;
    return more ? [[(seconds(samples.time_ns[Math.max(0, i - 1)]) + seconds(samples.time_ns[i])) / 2, `${number(more)} until ${seconds(samples.time_ns[i]).toFixed(3)} s`]] : [];
  });
  const bins = new Map();
  for (const bin of extra.fallbacks || []) {
    if (!bins.has(bin.time_ns)) bins.set(bin.time_ns, []);
    bins.get(bin.time_ns).push(`${number(bin.count)} ${bin.to} from ${bin.from}`);
  }
  const list = data.failure_list || [];
  mark("fallbacks", "line-ns-open", "#e16f24", 0.02, manyFallbacks() ? between("fallbacks") : [...bins].map(([time, texts]) => [seconds(time), texts.join(", ")]));
  mark("refused", "x-thin-open", "#cf222e", 0.06, data.failures > list.length ? between("failures") : list.map(each => [seconds(each.time_ns), `${asked(each)}: ${each.reason}`]));
  return rows;
}
const manyFallbacks = () => Boolean(data.fallbacks && data.fallbacks.count > data.fallbacks.kept);
const asked = each => each.event === "mm_page_alloc" ? `pages of order ${each.order}` : `${number(each.size_bytes)} bytes` + (each.cache ? ` of ${each.cache}` : "");
const momentLine = () => {
  const x = map && shown ? seconds(map.moments[shown.at].time_ns) : 0;
  return { type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, visible: Boolean(map && shown), line: { color: "#8c959f", width: 1.5, dash: "dash" } };
};
function nearestMoment(x) {
  let best = 0;
  map.moments.forEach((each, i) => { if (Math.abs(seconds(each.time_ns) - x) < Math.abs(seconds(map.moments[best].time_ns) - x)) best = i; });
  return best;
}
function fallbackChart() {
  const bins = extra.fallbacks || [];
  if (!bins.length) {
    const count = data.fallbacks ? data.fallbacks.count : 0;
    $("fallback-chart").textContent = count ? number(count) + " fallbacks; the result does not say when." : "There were none.";
    $("fallback-chart").style.height = "auto";
    return;
  }
  const pairs = new Map();
  for (const bin of bins) {
    const name = bin.to + " from " + bin.from;
    if (!pairs.has(name)) pairs.set(name, { x: [], y: [], name, type: "scatter", mode: "markers", marker: { size: 8 }, cliponaxis: false, hovertemplate: "%{y:,} in this moment" });
    pairs.get(name).x.push(seconds(bin.time_ns));
    pairs.get(name).y.push(bin.count);
  }
  if (manyFallbacks()) {
    const samples = extra.samples, y = samples.fallbacks.map((count, i) => i ? count - samples.fallbacks[i - 1] : count);
    pairs.set("", { x: samples.time_ns.map(seconds), y, name: "all, between samples", type: "scatter", mode: "lines", line: { color: "#6e7781", width: 1, shape: "vh" }, hovertemplate: "%{y:,}" });
  }
  plot("fallback-chart", [...pairs.values()], { xaxis: timeAxis(),
    yaxis: { title: { text: "fallbacks" }, rangemode: "tozero", tickformat: ",d", nticks: Math.min(6, 1 + Math.max(...bins.map(bin => bin.count))) } });
}
function bars(id, rows, traces, title) {
  if (!rows.length) {
    if ($(id).layout) Plotly.purge(id);
    $(id).textContent = "There is nothing to show.";
    $(id).style.height = "auto";
    return new Promise(() => {});
  }
  if (!$(id).layout) $(id).textContent = "";
  $(id).style.height = Math.max(12, rows.length * 1.5 + 6) + "rem";
  const y = rows.map(row => label(short(row.name || "(unnamed)", 40)));
  const full = rows.map(row => label(row.name || "(unnamed)"));
  return plot(id, traces.map(each => Object.assign({
    type: "bar", orientation: "h", y: y.map((name, i) => i), customdata: full,
    hovertemplate: "%{customdata}<br>" + each.name + ": %{text}<extra></extra>", textposition: "none",
  }, each)), { barmode: "stack", hovermode: "closest",
    yaxis: { tickvals: y.map((name, i) => i), ticktext: y, autorange: "reversed" }, xaxis: { title: { text: title } } });
}
function cacheChart() {
  const rows = data.caches.slice().sort((a, b) => b.slab_pages - a.slab_pages).slice(0, 20);
  const used = rows.map(row => row.live * row.size_bytes), free = rows.map(row => Math.max(0, row.slab_objects - row.live) * row.size_bytes);
  bars("cache-chart", rows, [
    { x: used.map(v => v / 1024), text: used.map((v, i) => bytes(v) + " in " + number(rows[i].live) + " objects"), name: "in use", marker: { color: "#2f81f7" } },
    { x: free.map(v => v / 1024), text: free.map(bytes), name: "free in slabs", marker: { color: "#9da7b1" } },
  ], "KiB in slabs");
}
const lives = new Map((data.lifetimes || []).map(row => [row.name, row]));
// null where nothing is known, or nothing was freed, or nothing lives
const lived = (row, key, counted) => { const found = lives.get(row.name); return found && found[counted] ? found[key] : null; };
function cacheTable() {
  const rows = data.caches.slice().sort((a, b) => b.slab_pages - a.slab_pages).slice(0, 100);
  const table = $("cache-table"), heads = ["object", "in use", "room", "used", "slabs", "pages", "wasted", "most at one time"];
  const head = cells("th", ["Cache", ...heads.map(text => element("th", text, "n"))]);
  table.replaceChildren(head, ...rows.map(row => cells("td", [row.name, ...[bytes(row.size_bytes), number(row.live), number(row.slab_objects),
    (100 * row.utilisation).toFixed(0) + " %", number(row.slabs), number(row.slab_pages), bytes(row.wasted_bytes), number(row.peak)].map(text => element("td", text, "n"))])));
}
const SITE_KEYS = {
  peak_alloc: ["bytes at the peak", row => row.peak_alloc, bytes], bytes_alloc: ["bytes in all", row => row.bytes_alloc, bytes],
  live_alloc: ["live bytes", row => row.live_alloc, bytes],
  slack: ["slack of all requests", row => row.bytes_alloc - row.bytes_req, bytes], slack_live: ["live slack", row => row.slack_bytes, bytes],
  mean: ["mean lifetime", row => lived(row, "mean_ns", "freed"), duration], median: ["median lifetime", row => lived(row, "median_ns", "freed"), duration],
  longest: ["longest lifetime", row => lived(row, "max_ns", "freed"), duration],
  age: ["age of the oldest live object", row => lived(row, "oldest_ns", "live"), duration], age_mean: ["mean age of live objects", row => lived(row, "age_mean_ns", "live"), duration],
  cross: ["frees on another CPU", row => row.cross_cpu_frees, number],
};
function lifeChart() {
  const wanted = $("life-site").value, rows = wanted === "all" ? [...lives.values()] : [lives.get(wanted.slice(1))];
  const sum = key => {
    const counts = new Map();
    for (const row of rows) for (const [power, count] of Object.entries(row[key])) counts.set(Number(power), (counts.get(Number(power)) || 0) + count);
    return counts;
  };
  const freed = sum("freed_log2"), live = sum("live_log2"), powers = [...freed.keys(), ...live.keys()];
  const first = Math.min(...powers), x = Array.from({ length: Math.max(...powers) - first + 1 }, (_, i) => first + i);
  const bar = (counts, name, colour) => ({ x, y: x.map(power => counts.get(power) || 0), customdata: x.map(power => `${duration(2 ** power)} to ${duration(2 ** (power + 1))}`),
    name, type: "bar", marker: { color: colour }, hovertemplate: "%{customdata}<br>" + name + ": %{y:,}<extra></extra>" });
  const step = Math.max(1, Math.ceil(x.length / ($("life-chart").clientWidth / 80)));
  const ticks = x.filter((_, i) => i % step === 0);
  plot("life-chart", [bar(freed, "freed, by lifetime", "#2f81f7"), bar(live, "live at the end, by age", "#e16f24")], { barmode: "group", hovermode: "closest",
    xaxis: { title: { text: "lifetime or age, at least" }, tickvals: ticks, ticktext: ticks.map(power => duration(2 ** power).replace(/\.\d+/, "")) }, yaxis: { title: { text: "objects" }, rangemode: "tozero" } });
  const total = key => rows.reduce((all, row) => all + row[key], 0), one = rows.length === 1 ? rows[0] : null;
  $("life-text").textContent = `${number(total("freed"))} objects were allocated and freed` + (one && one.freed ? `, after ${duration(one.median_ns)} (median), ${duration(one.mean_ns)} (mean), ${duration(one.max_ns)} at most` : "")
    + `; ${number(total("live"))} live at the end` + (one && one.live ? `, for ${duration(one.age_median_ns)} (median), ${duration(one.age_mean_ns)} (mean), ${duration(one.oldest_ns)} at most.` : ".");
}
function startLives() {
  if (!lives.size) {
    $("life-body").replaceChildren(element("p", data.call_sites.length ? "The result does not say how long objects live." : "No object was allocated or freed."));
    return;
  }
  const some = [...lives.values()].sort((a, b) => b.freed + b.live - a.freed - a.live).slice(0, 200);
  option($("life-site"), "all", "all call sites");
  for (const row of some) option($("life-site"), "=" + row.name, `${row.name || "(unnamed)"} (${number(row.freed + row.live)})`);
  $("life-site").addEventListener("change", lifeChart);
}
let shownSites = [];
function siteChart() {
  const [title, value, show] = SITE_KEYS[$("site-key").value];
  const rows = data.call_sites.slice().sort((a, b) => value(b) - value(a)).slice(0, 20).filter(row => value(row) > 0);
  const scale = show === duration ? 1e-9 : show === bytes ? 1 / 1024 : 1;
  shownSites = rows;
  bars("site-chart", rows, [{ x: rows.map(row => value(row) * scale), text: rows.map(row => show(value(row))), name: title, marker: { color: "#2f81f7" } }],
    title + (show === duration ? ", seconds" : show === bytes ? ", KiB" : "")).then(chart => {
    if (chart.dataset.listens) return;
    chart.dataset.listens = "yes";
    chart.on("plotly_click", event => {
      const name = "=" + shownSites[event.points[0].pointIndex].name;
      if (![...$("life-site").options].some(each => each.value === name)) return;
      $("life-site").value = name;
      lifeChart();
    });
  });
  const table = $("site-table"), head = element("tr"), keys = Object.keys(SITE_KEYS);
  head.append(element("th", "Call site"), ...keys.map(key => {
    const made = element("th", SITE_KEYS[key][0], "n");
    if (key === $("site-key").value) made.setAttribute("aria-sort", "descending");
    return made;
  }));
  const body = rows.map(row => {
    const line = element("tr");
    line.append(element("td", row.name || "(unnamed)"), ...keys.map(key => {
      const found = SITE_KEYS[key][1](row);
      return element("td", found === null ? "\u2013" : SITE_KEYS[key][2](found), "n");
    }));
    return line;
  });
  table.replaceChildren(head, ...body);
}

// --- slabs

function slabDrawing() {
  const cache = (extra.slabs || [])[Number($("cache").value)];
  if (!cache) { $("cache-text").textContent = extra.slabs ? "There are no slabs." : "The result has no slabs to draw."; return; }
  $("cache-text").textContent = `${cache.name}: ${plural(cache.slabs, "slab")} of ${4 << cache.order} KiB, objects of ${number(cache.size_bytes)} bytes`
    + (cache.shown.length < cache.slabs ? `; the ${cache.shown.length} emptiest are drawn.` : ".") + " Filled: in use. Dashed: kept by a CPU.";
  $("slab-drawing").replaceChildren(...cache.shown.map(slab => {
    const box = element("div", undefined, slab.cpu ? "slab cpu" : "slab"), objects = element("div", undefined, "objects");
    const used = slab.objects.filter(site => site >= 0).length;
    box.append(element("div", `${hex(slab.pfn)}: ${used} of ${slab.objects.length}`), objects);
    box.tabIndex = 0;
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", `Slab at frame ${hex(slab.pfn)}, ${used} of ${slab.objects.length} objects in use`);
    objects.style.gridTemplateColumns = `repeat(${Math.min(slab.objects.length, slab.objects.length > 64 ? 16 : 8)}, 9px)`;
    slab.objects.forEach((site, i) => {
      const object = element("span", undefined, site >= 0 ? "object used" : "object");
      object.title = `object ${i}: ` + (site >= 0 ? cache.sites[site] || "in use" : "free");
      objects.append(object);
    });
    return box;
  }));
}

// --- the map of page frames

const map = extra.map;
let shown = null, cursor = 0, origin = 0, shift = 0, loading = 0;
const unpacked = new Map();
async function unpack(text) {
  const raw = Uint8Array.from(atob(text), char => char.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
function moment(at) {
  if (!unpacked.has(at)) {
    if (unpacked.size > 8) unpacked.delete(unpacked.keys().next().value);
    const packed = map.moments[at];
    unpacked.set(at, Promise.all([unpack(packed.frames), unpack(packed.types)]).then(([frames, types]) => ({ at, frames, types })));
  }
  return unpacked.get(at);
}
function colour(owner) {
  if (owner < map.first_cache) { const found = OWNER_COLOURS[owner]; return Array.isArray(found) ? found[Number(dark.matches)] : found || "#000000"; }
  return `hsl(${(owner - map.first_cache) * 137.5 % 360} 55% ${dark.matches ? 55 : 45}%)`;
}
const ownerName = owner => owner === 255 ? "slabs of other caches" : (owner >= map.first_cache ? "slab of " : "") + (map.owners[owner] || "?");
// side of a cell: large while there are few, so that the map of a small machine is no thin line
function cell() {
  const least = matchMedia("(max-width: 40rem)").matches ? 12 : 14, cells = map.nr_frames / 2 ** shift;
  return Math.min(40, Math.max(least, Math.floor(Math.sqrt($("frames").clientWidth * 240 / cells))));
}
const columns = () => Math.max(8, Math.floor($("frames").clientWidth / cell()));
const rowsShown = () => Math.min(32, Math.max(1, Math.ceil(Math.ceil(map.nr_frames / 2 ** shift) / columns())));
function most(start, end) {
  const counts = new Uint32Array(256);
  for (let pfn = start; pfn < end; pfn++) counts[shown.frames[pfn]]++;
  let best = 0;
  for (let owner = 1; owner < 256; owner++) if (counts[owner] > counts[best]) best = owner;
  return [best, counts];
}
function busiest(counts) {
  let best = 3;
  for (let owner = 4; owner < 256; owner++) if (counts[owner] > counts[best]) best = owner;
  return best;
}
function drawMap() {
  if (!shown) return;
  const canvas = $("frames"), size = cell(), across = columns(), rows = rowsShown(), per = 2 ** shift, ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(rows * size * ratio);
  canvas.style.height = rows * size + "px";
  const g = canvas.getContext("2d");
  g.scale(ratio, ratio);
  const starts = map.zones.length > 1 ? map.zones : [];
  const rowFrames = across * per, at = Math.floor(cursor / rowFrames) * rowFrames;
  if (cursor < origin) origin = at;
  if (cursor >= origin + rows * rowFrames) origin = at - (rows - 1) * rowFrames;
  origin = Math.max(0, Math.floor(origin / rowFrames) * rowFrames);
  for (let i = 0; i < rows * across; i++) {
    const start = origin + i * per;
    if (start >= map.nr_frames) break;
    const x = i % across * size, y = Math.floor(i / across) * size;
    const end = Math.min(start + per, map.nr_frames), [best, counts] = most(start, end);
    const idle = counts[0] + counts[1] + counts[2], user = idle < end - start ? busiest(counts) : best;
    g.fillStyle = colour(best < 3 ? best : counts[1] + counts[2] ? 1 : 0);
    g.fillRect(x, y, size - 1, size - 1);
    if (idle < end - start) { // as much of the cell as is in use, and never so little that it cannot be seen
      const height = Math.max(3, Math.round((size - 4) * (1 - idle / (end - start))));
      g.fillStyle = colour(user);
      g.fillRect(x, y + size - 4 - height, size - 1, height);
    }
    g.fillStyle = TYPE_COLOURS[shown.types[start >> map.pageblock_order]] || "#8c959f";
    g.fillRect(x, y + size - 4, size - 1, 3);
    if (starts.some(zone => zone.start >= start && zone.start < start + per)) { // a zone begins here
      g.fillStyle = dark.matches ? "#ffffff" : "#000000";
      g.fillRect(x - 1, y, 2, size - 1);
    }
    if (cursor >= start && cursor < start + per) {
      g.strokeStyle = dark.matches ? "#ffffff" : "#000000";
      g.lineWidth = 2;
      g.strokeRect(x + 1, y + 1, size - 3, size - 3);
    }
  }
  const place = $("place"), room = map.nr_frames - rows * rowFrames;
  $("place-label").hidden = room <= 0;
  place.max = Math.ceil(Math.max(0, room) / rowFrames);
  place.value = origin / rowFrames;
  place.setAttribute("aria-valuetext", `from frame ${hex(origin)}`);
  $("zoom-text").textContent = per === 1 ? "a cell is one page frame" : `a cell is ${number(per)} page frames, ${bytes(per * map.page_bytes)}`;
  describe(cursor);
}
function describe(pfn) {
  const per = 2 ** shift, start = Math.floor(pfn / per) * per, end = Math.min(start + per, map.nr_frames);
  const zone = map.zones.find(each => end > each.start && start < each.end);
  const counts = most(start, end)[1], parts = [];
  counts.forEach((count, owner) => { if (count) parts.push([count, owner]); });
  parts.sort((a, b) => b[0] - a[0]);
  const place = per === 1 ? `Page frame ${hex(start)}` : `Page frames ${hex(start)} to ${hex(end - 1)}`;
  $("frame-text").textContent = `${place}, physical address ${hex(start * map.page_bytes)}, ${zone ? "zone " + zone.name + (zone.node ? " of node " + zone.node : "") : "no zone"}, `
    + `page block ${map.types[shown.types[start >> map.pageblock_order]] || "without a type"}: `
    + parts.slice(0, 5).map(([count, owner]) => (per === 1 ? "" : number(count) + " ") + ownerName(owner)).join(", ") + (parts.length > 5 ? ", and others" : "") + ".";
}
function tip(event, pfn) {
  const box = $("tip"), per = 2 ** shift, start = Math.floor(pfn / per) * per, [best, counts] = most(start, Math.min(start + per, map.nr_frames));
  const idle = counts[0] + counts[1] + counts[2], total = counts.reduce((a, b) => a + b, 0), user = idle < total ? busiest(counts) : best;
  box.textContent = (per === 1 ? `frame ${hex(start)}` : `frames ${hex(start)}\u2013${hex(start + total - 1)}`) + `: ${ownerName(user)}` + (counts[user] < total ? ` (${Math.round(100 * counts[user] / total)} %)` : "");
  box.hidden = false;
  const left = Math.min(event.clientX + 14, document.documentElement.clientWidth - box.offsetWidth - 4), below = event.clientY + 18;
  box.style.left = Math.max(0, left) + "px";
  box.style.top = (below + box.offsetHeight > window.innerHeight ? event.clientY - box.offsetHeight - 10 : below) + "px";
}
function typeLegend() {
  const used = new Set(shown.types);
  $("types").replaceChildren(...map.types.flatMap((name, i) => {
    if (!used.has(i)) return [];
    const item = element("span"), dot = element("span", undefined, "dot");
    dot.style.background = TYPE_COLOURS[i];
    item.append(dot, name);
    return [item];
  }));
}
function goTo(at) {
  $("moment").value = at;
  return showMoment();
}
let playing = 0;
function play() {
  if (playing) { clearInterval(playing); playing = 0; } else {
    if (Number($("moment").value) >= map.moments.length - 1) goTo(0);
    playing = setInterval(() => { if (Number($("moment").value) >= map.moments.length - 1) play(); else stepMoment(1); }, 250);
  }
  $("play").textContent = playing ? "Pause" : "Play";
}
function freeText() {
  const samples = extra.samples, time = map.moments[shown.at].time_ns;
  if (!samples) return;
  const found = samples.time_ns.findIndex(each => each >= time), at = found < 0 ? samples.time_ns.length - 1 : found;
  const free = samples.zones.map(zone => [zone.name, zone.free.reduce((sum, cell) => sum + cell.pages[at], 0)]);
  $("free-text").textContent = `At the moment of the map, ${seconds(time).toFixed(3)} s: ${bytes(free.reduce((sum, each) => sum + each[1], 0) * 4096)} free`
    + (free.length > 1 ? ` (${free.map(([name, pages]) => `${name} ${bytes(pages * 4096)}`).join(", ")})` : "") + `, ${bytes(samples.slab_pages[at] * 4096)} in slabs`
    + `; ${number(samples.failures[at])} requests refused and ${number(samples.fallbacks[at])} fallbacks until then.`;
}
let line = 0;
function drawLine() { // not with each step of the slider: a chart takes longer than the map
  clearTimeout(line);
  line = setTimeout(() => { const at = momentLine(); if ($("free-chart").layout && typeof Plotly !== "undefined") Plotly.relayout("free-chart", { shapes: [at] }); }, 80);
}
function ownerTable() {
  const counts = new Uint32Array(256);
  for (const owner of shown.frames) counts[owner]++;
  const rows = [];
  counts.forEach((count, owner) => { if (count) rows.push([count, owner]); });
  rows.sort((a, b) => b[0] - a[0]);
  $("owners").tBodies[0].replaceChildren(...rows.slice(0, 25).map(([count, owner]) => {
    const line = element("tr"), name = element("td"), dot = element("span", undefined, "dot");
    dot.style.background = colour(owner);
    name.append(dot, ownerName(owner));
    line.append(name, element("td", number(count), "n"), element("td", (100 * count / map.nr_frames).toFixed(2) + " %", "n"));
    return line;
  }));
}
async function showMoment() {
  const at = Number($("moment").value), ticket = ++loading, found = await moment(at);
  if (ticket !== loading) return; // the slider has moved on
  shown = found;
  const text = `${at + 1} of ${map.moments.length}: ${seconds(map.moments[at].time_ns).toFixed(3)} s, after ${number(map.moments[at].events)} events`;
  $("moment-text").textContent = text;
  $("moment").setAttribute("aria-valuetext", text);
  $("frames").dataset.moment = at;
  drawMap();
  ownerTable();
  typeLegend();
  freeText();
  drawLine();
}
function stepMoment(by) {
  $("moment").value = Number($("moment").value) + by;
  showMoment();
}
function zoom(by) {
  shift = Math.min(Math.max(0, shift + by), fullShift());
  origin = Math.max(0, cursor - 2 ** shift * columns() * 4);
  drawMap();
}
// the smallest power of two, not below a page block, with which all memory fits
function fullShift() {
  let at = map.pageblock_order;
  while (map.nr_frames / 2 ** at > 4096) at++;
  return at;
}
function under(event) {
  const box = $("frames").getBoundingClientRect(), size = cell(), column = Math.floor((event.clientX - box.left) / size);
  if (column >= columns() || column < 0) return null;
  const pfn = origin + (Math.floor((event.clientY - box.top) / size) * columns() + column) * 2 ** shift;
  return pfn >= 0 && pfn < map.nr_frames ? pfn : null;
}
function startMap() {
  if (!map) {
    $("map-body").replaceChildren(element("p", "The result has no map of page frames: kmem replay --save keeps one."));
    return;
  }
  const slider = $("moment"), canvas = $("frames");
  slider.max = map.moments.length - 1;
  shift = fullShift();
  const asked = /moment=(\d+)/.exec(location.hash);
  slider.value = asked ? Number(asked[1]) : map.moments.length - 1;
  slider.addEventListener("input", showMoment);
  $("play").addEventListener("click", play);
  $("zones").append(...map.zones.map(zone => {
    const button = element("button", (map.zones.some(each => each.node) ? `node ${zone.node} ` : "") + zone.name);
    button.type = "button";
    button.addEventListener("click", () => { cursor = zone.start; origin = Math.min(origin, cursor); drawMap(); });
    return button;
  }));
  $("place").addEventListener("input", () => {
    const rowFrames = columns() * 2 ** shift;
    origin = Number($("place").value) * rowFrames;
    cursor = Math.min(Math.max(cursor, origin), Math.min(map.nr_frames, origin + rowsShown() * rowFrames) - 1);
    drawMap();
  });
  $("zoom-in").addEventListener("click", () => zoom(-1));
  $("zoom-out").addEventListener("click", () => zoom(1));
  canvas.addEventListener("pointermove", event => { const pfn = under(event); if (pfn !== null && shown) { describe(pfn); tip(event, pfn); } else $("tip").hidden = true; });
  canvas.addEventListener("pointerleave", () => { $("tip").hidden = true; if (shown) describe(cursor); });
  canvas.addEventListener("click", event => { const pfn = under(event); if (pfn !== null) { cursor = pfn; drawMap(); } });
  canvas.addEventListener("dblclick", () => zoom(-3));
  canvas.addEventListener("wheel", event => {
    if (!event.ctrlKey) return; // the page scrolls
    event.preventDefault();
    const pfn = under(event);
    if (pfn !== null) cursor = pfn;
    zoom(event.deltaY < 0 ? -1 : 1);
  }, { passive: false });
  canvas.addEventListener("keydown", event => {
    const per = 2 ** shift, steps = { ArrowLeft: -per, ArrowRight: per, ArrowUp: -per * columns(), ArrowDown: per * columns() };
    if (event.key in steps) cursor = Math.min(Math.max(0, cursor + steps[event.key]), map.nr_frames - 1);
    else if (event.key === "Home") cursor = 0;
    else if (event.key === "End") cursor = map.nr_frames - 1;
    else if (event.key === "+" || event.key === "=") zoom(-1);
    else if (event.key === "-") zoom(1);
    else if (event.key === "PageUp") stepMoment(-1);
    else if (event.key === "PageDown") stepMoment(1);
    else return;
    event.preventDefault();
    drawMap();
  });
  window.addEventListener("hashchange", () => {
    const found = /moment=(\d+)/.exec(location.hash);
    if (found) { slider.value = Number(found[1]); showMoment(); }
  });
  window.addEventListener("resize", drawMap);
  return showMoment();
}

// --- the rest

const VERDICTS = { "ok": "would serve it", "below-watermark": "too few pages", "no-block-of-order": "no block of this order", "not-eligible": "may not be used" };
function comparison(zone) {
  const sign = zone.verdict === "below-watermark" ? "\u2264" : ">";
  return `${number(zone.free)} free \u2212 ${number(zone.unusable)} unusable ${sign} ${number(zone.watermark)} watermark + ${number(zone.lowmem_reserve)} reserve`;
}
const cells = (kind, texts) => { const line = element("tr"); line.append(...texts.map(text => text instanceof Node ? text : element(kind, text))); return line; };
function scrolled(table, name) {
  const scroll = element("div", undefined, "scroll");
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", name);
  scroll.append(table);
  return scroll;
}
// the free blocks of a zone by order, on a logarithmic scale; those that are too small are pale
function blocks(zone, order) {
  const box = element("span", undefined, "blocks"), most = Math.log2(1 + Math.max(...zone.nr_free));
  zone.nr_free.forEach((count, at) => {
    const bar = element("span", undefined, at < order ? "small" : "");
    bar.style.height = (count ? 2 + 18 * Math.log2(1 + count) / most : 0) + "px";
    bar.title = `order ${at}: ${number(count)} free`;
    box.append(bar);
  });
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", "Free blocks by order: " + zone.nr_free.map((count, at) => `${at}: ${number(count)}`).join(", "));
  return box;
}
function why(each) {
  const box = element("div", undefined, "why"), zones = each.zones || [];
  box.append(...(each.explanation || []).map(text => element("p", text)));
  if (!zones.length) return box;
  const table = element("table");
  table.append(cells("th", ["Zone", "Verdict", "Compared, in pages", "Free blocks by order"]), ...zones.map(zone => {
    const place = element("td");
    place.append(blocks(zone, each.order));
    const line = cells("td", [(zones.some(other => other.node) ? `node ${zone.node} ` : "") + zone.name, VERDICTS[zone.verdict] || zone.verdict,
      zone.eligible ? comparison(zone) : `${number(zone.free)} free`, place]);
    line.className = zone.verdict;
    return line;
  }));
  box.append(scrolled(table, "Zones at that moment"));
  return box;
}
function kindOf(kind) {
  const box = element("details", undefined, "kind"), first = kind.first;
  box.open = true;
  box.append(element("summary", `${number(kind.count)} of order ${kind.order} in zone ${kind.zone || "(none)"}: ${kind.reason}`));
  if (!first) return box;
  box.append(element("p", `The first, ${seconds(first.time_ns).toFixed(6)} s into the trace on CPU ${first.cpu}: ${asked(first)} with ${first.gfp_text}` + (first.call_site ? `, at ${first.call_site}` : "")), why(first));
  if (kind.remedies.length) {
    const list = element("ul");
    list.append(...kind.remedies.map(each => { const item = element("li"); item.append(element("b", each.kind), ": " + each.text); return item; }));
    box.append(element("p", "Would have helped, each tried on the model in this state:"), list);
  } else if (kind.remedies_tried) box.append(element("p", "Nothing that can be tried on this state alone would have helped it."));
  return box;
}
function failures() {
  const list = data.failure_list || [], body = $("failure-body"), kinds = data.failures_by_reason || [];
  if (!data.failures) { body.append(element("p", "The model refused no request.")); return; }
  body.append(element("p", `${number(data.failures)} requests were refused, ${number(data.atomic_failures)} of them atomic.`), ...kinds.slice(0, 8).map(kindOf));
  if (kinds.length > 8) body.append(element("p", `And ${number(kinds.length - 8)} rarer kinds.`));
  body.append(element("p", "kmem replay --compare --set NAME=VALUE shows what a setting makes of the whole trace.", "hint"));
  const table = element("table");
  table.append(cells("th", ["Time", "Request", "Flags", "Who", "Why"]), ...list.slice(0, 100).map(each => {
    const reason = element("td"), details = element("details");
    details.append(element("summary", each.reason));
    details.addEventListener("toggle", () => { if (details.children.length === 1) details.append(why(each)); }, { once: true });
    reason.append(details);
    const time = element("td", undefined, "n"), when = seconds(each.time_ns), text = when.toFixed(6) + " s";
    if (map) {
      const link = element("a", text);
      link.href = "#map";
      link.title = "the map at this moment";
      link.addEventListener("click", () => goTo(nearestMoment(when)));
      time.append(link);
    } else time.append(text);
    return cells("td", [time, asked(each), each.gfp_text, each.call_site || "the trace does not say", reason]);
  }));
  body.append(element("h3", data.failures > 100 ? "The first 100 of them" : "All of them"), scrolled(table, "Table of failures"));
}
const REGION_COLOURS = { user: "#1b9aaa", lowmem: "#2da44e", "direct map": "#2da44e", vmalloc: "#e0b400", modules: "#e0b400", kernel: "#8250df", pkmap: "#e16f24", fixmap: "#e16f24", "high memory": "#bf4b8a" };
function addressSpace() {
  const space = extra.address_space, body = $("space-body");
  if (!space) { body.append(element("p", "The result has no map of addresses.")); return; }
  const regions = space.regions.slice().reverse();
  if (space.high_memory) regions.push(space.high_memory);
  body.append(element("p", "The highest addresses are on top; heights grow with the logarithm of the size. What is in use is filled."));
  let above = null;
  for (const region of regions) {
    const hole = above !== null && region !== space.high_memory ? above - BigInt(region.end) : 0n;
    const gap = hole >= 1n << 20n ? [`nothing for ${bytes(Number(hole))}`] : [];
    if (region.name === "user") gap.push("above are the kernel's addresses, below those of processes");
    if (region === space.high_memory) gap.push("physical memory that the kernel has no address for");
    if (gap.length) body.append(element("div", gap.join("; "), "hole"));
    above = region === space.high_memory ? null : BigInt(region.start);
    const box = element("div", undefined, "region");
    box.style.setProperty("--colour", REGION_COLOURS[region.name] || "#8c959f");
    box.style.minHeight = 1.6 + Math.max(0, Math.log2(region.size_bytes || 1) - 20) * 0.1 + "rem";
    if (region.used_bytes && region.size_bytes) box.style.setProperty("--used", 100 * Math.min(1, region.used_bytes / region.size_bytes) + "%");
    const used = region.used_bytes ? `, ${bytes(region.used_bytes)} in use` : "";
    box.append(element("b", region.name), ` ${bytes(region.size_bytes)}${used} `, element("code", `${region.start} to ${region.end}`), ` ${region.note}`);
    if (region.entries.length) {
      const details = element("details"), list = element("ul");
      details.append(element("summary", plural(region.entries.length, "part")), list);
      list.append(...region.entries.slice(0, 200).map(each => element("li", `${each.start} to ${each.end}  ${each.what}  ${each.who}`)));
      if (region.entries.length > 200) list.append(element("li", `and ${number(region.entries.length - 200)} more`));
      box.append(details);
    }
    body.append(box);
  }
}
function summary() {
  const machine = data.machine, memory = data.memory || {}, slab = data.slab || {};
  $("about").textContent = `${data.trace} on ${machine.name}: ${machine.arch}, ${machine.cpus} CPU${machine.cpus === 1 ? "" : "s"}, ${bytes(machine.memory_bytes)}`;
  const tiles = [["events", number(data.events)], ["time", duration(data.last_ns - data.first_ns)], ["requests", number(data.requests)],
    ["refused", number(data.failures)], ["free at the end", bytes(memory.free_at_end * 4096)], ["least free", bytes(memory.lowest_free * 4096)],
    ["in slabs", bytes(slab.slab_pages * 4096)], ["fallbacks", number(data.fallbacks ? data.fallbacks.count : 0)]];
  $("tiles").append(...tiles.map(([name, value]) => {
    const tile = element("div", undefined, "tile");
    tile.append(element("b", value), element("span", name));
    return tile;
  }));
  $("notes").append(...machine.assumed.map(text => element("li", "Assumed: " + text)), ...data.notes.map(text => element("li", text)));
}
// One after the other, with room for what the user does in between.
async function charts() {
  for (const draw of [freeChart, fallbackChart, cacheChart, siteChart, ...lives.size ? [lifeChart] : []]) {
    draw();
    await new Promise(done => setTimeout(done, 0));
  }
}
async function start() {
  summary();
  option($("zone"), "all", "all");
  if (extra.samples) extra.samples.zones.forEach((zone, i) => option($("zone"), i, zone.name));
  (extra.slabs || []).forEach((cache, i) => option($("cache"), i, `${cache.name} (${plural(cache.slabs, "slab")})`));
  startLives();
  for (const [key, [title]] of Object.entries(SITE_KEYS)) option($("site-key"), key, title);
  $("zone").addEventListener("change", freeChart);
  $("split").addEventListener("change", freeChart);
  $("cache").addEventListener("change", slabDrawing);
  $("site-key").addEventListener("change", siteChart);
  dark.addEventListener("change", () => { charts(); if (map) drawMap(); });
  failures();
  addressSpace();
  slabDrawing();
  cacheTable();
  const read = new Promise(done => document.addEventListener("DOMContentLoaded", done, { once: true }));
  await startMap();
  await read;
  await charts();
  document.body.dataset.ready = "yes";
}
start().catch(error => { document.body.dataset.ready = "failed"; console.error(error); throw error; });
})();
