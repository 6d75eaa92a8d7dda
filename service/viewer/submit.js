// The dialog that asks for a prediction: of a slide of the folders, or of a file, which is sent first.

import { getJson, sendJson } from "./api.js";
import { byId, element, fill } from "./dom.js";
import { sendFile } from "./upload.js";

export class SubmitDialog {
  #dialog = byId("submit-dialog");
  #slide = null;
  #models = [];
  #sending = null;
  #submitted;

  /** @param submitted called with {kind, id}: what to show next. */
  constructor(submitted) {
    this.#submitted = submitted;
    byId("submit-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("submit-close").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("close", () => this.#sending?.abort());
    byId("submit-model").addEventListener("change", () => this.#showTasks());
    byId("submit-file").addEventListener("change", () => this.#showSource());
    byId("submit-source").addEventListener("change", () => this.#showSource());
  }

  /** Open the dialog; `slide` {id, name} is the one that is shown, if one is. */
  async open(slide = null) {
    this.#slide = slide;
    byId("submit-slide-name").textContent = slide ? slide.name : "no slide is open";
    byId("source-slide").disabled = !slide;
    byId(slide ? "source-slide" : "source-file").checked = true;
    this.#say("");
    this.#showSource();
    this.#dialog.showModal();
    try {
      this.#models = (await getJson("models")).items;
      fill(byId("submit-model"), this.#models.map((model) => element("option", { value: model.name, selected: model.default }, model.name)));
      byId("submit-model-row").hidden = this.#models.length < 2;
      this.#showTasks();
    } catch (error) {
      this.#say(error.message);
    }
  }

  #showTasks() {
    const model = this.#models.find(({ name }) => name === byId("submit-model").value);
    const tasks = model?.tasks ?? [];
    const options = tasks.map(({ name }) => element("option", { value: name }, name));
    fill(byId("submit-task"), element("option", { value: "" }, "not known: the model decides"), options);
    byId("submit-task-row").hidden = tasks.length < 2;
  }

  #showSource() {
    const ofFile = byId("source-file").checked;
    const file = byId("submit-file").files[0];
    byId("submit-file-row").hidden = !ofFile;
    byId("submit-mpp-row").hidden = ofFile && Boolean(file?.name.endsWith(".h5"));
  }

  async #send() {
    const button = byId("submit-send");
    const file = byId("submit-file").files[0];
    const ofFile = byId("source-file").checked;
    if (ofFile && !file) return this.#say("Choose a file first.");
    button.disabled = true;
    this.#sending = new AbortController();
    try {
      const source = ofFile ? { upload: await this.#upload(file, this.#sending.signal) } : { slide: this.#slide.id };
      this.#say("Asking for the prediction …");
      const { status, body } = await sendJson("POST", "predictions", { ...source, ...this.#options() }, { Prefer: "respond-async" });
      this.#dialog.close();
      byId("submit-file").value = "";
      this.#submitted({ kind: status === 202 ? "jobs" : "predictions", id: body.id });
    } catch (error) {
      if (error.name !== "AbortError") this.#say(error.message);
    } finally {
      button.disabled = false;
      byId("upload-progress").hidden = true;
    }
  }

  async #upload(file, signal) {
    const bar = byId("upload-progress");
    Object.assign(bar, { hidden: false, max: file.size || 1, value: 0 });
    this.#say(`Sending ${file.name} …`);
    return sendFile(file, (bytes) => (bar.value = bytes), signal);
  }

  #options() {
    const given = {};
    if (this.#models.length > 1) given.model = byId("submit-model").value;
    if (byId("submit-task").value) given.task = byId("submit-task").value;
    const mpp = byId("submit-mpp").valueAsNumber;
    if (mpp && !byId("submit-mpp-row").hidden) given.mpp = mpp;
    return given;
  }

  #say(text) {
    byId("submit-said").textContent = text;
  }
}
