// The page: a form that submits a job, follows its events, and keeps the last pictures in this browser.

const JOBS = "/v2/instantid";
const KEPT = 12; // pictures
const PREVIEW_CALLS = 3;
const $ = (id) => document.getElementById(id);
let photo = null; // data URL
let job = null; // id of the job in work
let cancelled = false;

// ---- what the server allows ----

async function loadOptions() {
  const options = await (await fetch("/v2/options")).json();
  fill($("style"), options.styles, options.no_style);
  fill($("sampler"), options.samplers, "euler");
  for (const [name, limits] of Object.entries(options.fields)) {
    const input = $(name);
    if (!input || input.type !== "number") continue;
    input.min = limits.minimum;
    input.max = limits.maximum;
    input.value = limits.default;
  }
  $("key-row").hidden = !options.keys;
  $("key").value = sessionStorage.getItem("key") ?? "";
  $("model").textContent = options.model ? `Model: ${options.model}` : "The server is starting.";
}

function fill(select, names, chosen) {
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
}

// ---- the photo ----

function choose(file) {
  if (!file) return;
  const reader = new FileReader();
  reader.addEventListener("load", () => {
    photo = reader.result;
    $("chosen").src = photo;
    $("chosen").alt = `The chosen photo, ${file.name}`;
    $("chosen").hidden = false;
    showError("");
  });
  reader.addEventListener("error", () => showError("The photo could not be read."));
  reader.readAsDataURL(file);
}

function watchDrops() {
  const area = $("drop");
  for (const name of ["dragenter", "dragover"]) {
    area.addEventListener(name, (event) => { event.preventDefault(); area.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) area.addEventListener(name, () => area.classList.remove("over"));
  area.addEventListener("drop", (event) => { event.preventDefault(); choose(event.dataTransfer.files[0]); });
}

// ---- asking for a picture ----

function body() {
  const number = (id) => Number($(id).value);
  const asked = {
    prompt: $("prompt").value,
    face_image: photo,
    style: $("style").value || null,
    sampler: $("sampler").value,
    preview_calls: PREVIEW_CALLS,
    base64: true,
  };
  for (const id of ["identity_strength", "adapter_strength", "num_inference_steps", "guidance_scale", "seed"]) {
    asked[id] = number(id);
  }
  if ($("negative_prompt").value) asked.negative_prompt = $("negative_prompt").value;
  return asked;
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if ($("key").value) headers["x-api-key"] = $("key").value;
  const answer = await fetch(path, { ...options, headers });
  const credits = answer.headers.get("x-remaining-credits");
  $("credits").textContent = answer.status === 401 ? "" : `${credits} credits are left.`;
  if (!answer.ok) throw new Error(message(await answer.json()));
  return answer;
}

function message({ error }) {
  return [error.message, error.found && `Found: ${error.found}`, error.hint && `To do: ${error.hint}`]
    .filter(Boolean).join(". ") + ".";
}

async function make(event) {
  event.preventDefault();
  if (!photo) { showError("Choose a photo of the person first."); $("photo").focus(); return; }
  if (!$("prompt").value.trim()) { showError("Say what to render."); $("prompt").focus(); return; }
  sessionStorage.setItem("key", $("key").value);
  showError("");
  working(true);
  cancelled = false;
  try {
    const asked = JSON.stringify(body());
    const headers = { "content-type": "application/json", "idempotency-key": crypto.getRandomValues(new Uint32Array(4)).join("-") };
    job = (await (await ask(JOBS, { method: "POST", headers, body: asked })).json()).id;
    if (cancelled) await stop();
    await finish(await follow(job));
  } catch (error) {
    showStatus("No picture was made.");
    showError(error instanceof TypeError ? "The server cannot be reached." : error.message);
  }
  job = null;
  working(false);
}

async function stop() {
  cancelled = true;
  if (job) await ask(`${JOBS}/${job}`, { method: "DELETE" }).catch((error) => showError(error.message));
}

// ---- following a job ----

async function follow(id) {
  for (;;) {
    const answer = await ask(`${JOBS}/${id}/events`);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read().catch(() => ({ done: true }));
      if (done) break; // the server or the connection ended: listen again
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const [, name, data] = block.match(/^event: (\w+)\ndata: (.*)$/s) ?? [];
        if (name === "progress") showProgress(JSON.parse(data));
        else if (name) return JSON.parse(data);
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function showProgress({ queue_place: place, progress, preview }) {
  const bar = $("progress");
  bar.hidden = false;
  if (progress.calls === 0) {
    bar.removeAttribute("value");
    showStatus(place > 1 ? `Waiting: number ${place} in line.` : "Waiting: next in line.");
    return;
  }
  bar.value = progress.calls_done / progress.calls;
  showStatus(`Step ${progress.calls_done} of ${progress.calls}.`);
  if (preview) {
    show(preview, "A preview of the picture");
    $("picture").classList.add("preview");
  }
}

async function finish(view) {
  $("progress").hidden = true;
  if (view.status !== "done") {
    showStatus(view.status === "cancelled" ? "Cancelled. Nothing was charged." : "No picture was made.");
    if (view.status === "failed") showError(message(view));
    show(null);
    return;
  }
  const { result } = view;
  const url = `data:${result.media_type};base64,${result.base64[0]}`;
  const seconds = view.metrics.inference_time.toFixed(1);
  showStatus(`Done in ${seconds} s, seed ${result.seed}. ${result.warnings.join(". ")}`);
  show(url, `The picture for: ${$("prompt").value}`);
  $("download").href = url;
  $("download").download = nameOf(result.seed, result.media_type);
  $("download").hidden = false;
  await keep({ id: view.id, url, prompt: $("prompt").value, seed: result.seed, type: result.media_type, time: Date.now() });
  await showLast();
}

// ---- what is shown ----

function show(url, text = "") {
  const picture = $("picture");
  picture.classList.remove("preview");
  picture.hidden = !url;
  $("empty").hidden = Boolean(url);
  if (!url) { picture.removeAttribute("src"); return; }
  picture.src = url;
  picture.alt = text;
}

function working(on) {
  $("make").disabled = on;
  $("cancel").hidden = !on;
  if (!on) { $("progress").hidden = true; return; }
  $("download").hidden = true;
  show(null);
  showStatus("Sending the photo.");
  $("result").scrollIntoView({ block: "nearest" });
}

function showStatus(text) { $("status").textContent = text; }
function showError(text) { $("error").textContent = text; $("error").hidden = !text; }
function nameOf(seed, type) { return `instantrt-${seed}.${type === "image/png" ? "png" : "jpg"}`; }

// ---- the last pictures, in this browser's own database ----

function store(mode, act) {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("instantrt", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("pictures", { keyPath: "id" });
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      const change = opening.result.transaction("pictures", mode);
      const request = act(change.objectStore("pictures"));
      change.oncomplete = () => { opening.result.close(); resolve(request.result); };
      change.onerror = change.onabort = () => { opening.result.close(); reject(change.error); };
    };
  });
}

async function lastPictures() {
  const all = await store("readonly", (pictures) => pictures.getAll()).catch(() => []);
  return all.sort((a, b) => b.time - a.time);
}

async function keep(entry) {
  await store("readwrite", (pictures) => pictures.put(entry)).catch(() => null); // private windows may keep nothing
  for (const old of (await lastPictures()).slice(KEPT)) await store("readwrite", (pictures) => pictures.delete(old.id));
}

async function showLast() {
  const entries = await lastPictures();
  $("last").hidden = entries.length === 0;
  $("pictures").replaceChildren(...entries.map(tile));
}

function tile({ url, prompt, seed, type }) {
  const [item, link, image] = ["li", "a", "img"].map((name) => document.createElement(name));
  Object.assign(image, { src: url, alt: `${prompt}, seed ${seed}` });
  Object.assign(link, { href: url, download: nameOf(seed, type), title: `Download: ${prompt}, seed ${seed}` });
  link.append(image);
  item.append(link);
  return item;
}

async function forget() {
  await store("readwrite", (pictures) => pictures.clear());
  await showLast();
  $("make").focus();
}

// ---- start ----

function showStrength(input) { document.querySelector(`output[for=${input.id}]`).textContent = Number(input.value).toFixed(2); }

for (const input of document.querySelectorAll("input[type=range]")) {
  input.addEventListener("input", () => showStrength(input));
  showStrength(input);
}
$("photo").addEventListener("change", () => choose($("photo").files[0]));
$("form").addEventListener("submit", make);
$("cancel").addEventListener("click", stop);
$("forget").addEventListener("click", forget);
watchDrops();
showLast();
loadOptions().catch(() => showError("The server cannot be reached."));
