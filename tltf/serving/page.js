// The page of `tltf serve`: one input, one answer. Names and texts only ever become text nodes.
"use strict";
const MOST_BARS = 10;
const $ = (id) => document.getElementById(id);
let model = null;

async function start() {
  model = await (await fetch("/model")).json();
  $("name").textContent = model.name;
  $("about").textContent = `version ${model.version}, ${model.task || "model"}`;
  const isText = model.input === "text";
  $("text").hidden = !isText;
  $("image").hidden = isText;
}

function say(text, isError) {
  $("state").textContent = text;
  $("state").className = isError ? "error" : "";
}

async function ask(value, draw) {
  say("asking…", false);
  $("answer").hidden = true;
  try {
    const response = await fetch(`/v1/models/${encodeURIComponent(model.name)}:explain`, {
      method: "POST",
      body: JSON.stringify({ instances: [{ [model.input]: value }] }),
    });
    const found = JSON.parse((await response.text()).replaceAll("NaN", "null"));
    if (!response.ok) throw new Error(found.error);
    show(found);
    await draw(found);
    $("answer").hidden = false;
    say("", false);
  } catch (error) {
    say(error.message, true);
  }
}

function show(found) {
  const isValue = "value" in found;
  const readable = isValue ? found.value !== null : found.label_id >= 0;
  $("label").textContent = !readable ? "cannot be read" : isValue ? found.value.toPrecision(4) : found.label || "(none)";
  $("verdict").textContent = !readable ? "" : found.accepted ? "accepted" : "not sure enough: rejected";
  const bars = $("bars");
  bars.replaceChildren();
  const rows = (found.probabilities || []).map((p, i) => [model.classes[i] ?? String(i), p]);
  rows.sort((a, b) => b[1] - a[1]);
  for (const [name, p] of rows.slice(0, MOST_BARS)) {
    const bar = document.createElement("div");
    const label = document.createElement("span");
    const number = document.createElement("span");
    const progress = document.createElement("progress");
    bar.className = "bar";
    label.textContent = name;
    number.textContent = `${(100 * p).toFixed(1)} %`;
    progress.max = 1;
    progress.value = p;
    bar.append(label, number, progress);
    bars.append(bar);
  }
}

function colour(weight, most) {
  const strength = most > 0 ? Math.min(1, Math.abs(weight) / most) : 0;
  return `rgba(${weight > 0 ? "0, 140, 60" : "200, 30, 30"}, ${(0.6 * strength).toFixed(3)})`;
}

async function drawImage(file, found) {
  const canvas = $("picture");
  canvas.hidden = false;
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  try {
    // Stretched to the square, as the model sees it; EXIF orientation is ignored by the model too.
    const bitmap = await createImageBitmap(file, { imageOrientation: "none" });
    context.imageSmoothingEnabled = bitmap.width > canvas.width;
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  } catch {
    return;
  }
  const map = found.map || [];
  const most = Math.max(0, ...map.flat().map(Math.abs));
  map.forEach((row, y) => row.forEach((weight, x) => {
    context.fillStyle = colour(weight, most);
    const side = canvas.width / row.length;
    context.fillRect(x * side, y * side, side, side);
  }));
}

function drawWords(found) {
  const marked = $("marked");
  marked.hidden = false;
  marked.replaceChildren();
  const words = found.words || [];
  const most = Math.max(0, ...words.map(([, weight]) => Math.abs(weight)));
  for (const [word, weight] of words) {
    const span = document.createElement("span");
    span.textContent = word;
    span.style.background = colour(weight, most);
    marked.append(span, " ");
  }
}

async function sendFile(file) {
  const data = new Uint8Array(await file.arrayBuffer());
  let binary = "";
  for (let i = 0; i < data.length; i += 32768) {
    binary += String.fromCharCode(...data.subarray(i, i + 32768));
  }
  await ask({ b64: btoa(binary) }, (found) => drawImage(file, found));
}

$("file").addEventListener("change", (event) => event.target.files[0] && sendFile(event.target.files[0]));
$("send").addEventListener("click", () => ask($("words").value, async (found) => drawWords(found)));
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) sendFile(event.dataTransfer.files[0]);
  });
}
start().catch((error) => say(`the server does not answer: ${error.message}`, true));
