// Confirmation dialogs, and messages about results.

import { h } from "./dom.js";

/**
 * Open a dialog. `fields`: `{name, label, type, value, min, hint}`. Resolves to their values, or to null if cancelled.
 * `work(values)` performs the action. The dialog shows its errors, and the user can retry.
 */
export function ask({ title, text, fields = [], yes, dangerous = false, work }) {
  return new Promise((resolve) => {
    const problem = h("p", { class: "problem", role: "alert" });
    const form = h("form", { onsubmit: submit },
      h("h2", { id: "dialog-title" }, title),
      [text].flat().map((one) => h("p", {}, one)),
      fields.map((field) => [
        h("label", {}, field.label, h("input", {
          name: field.name, type: field.type ?? "text", value: field.value, min: field.min, step: field.step, required: field.required,
          readonly: field.readonly, autocomplete: "off", "aria-describedby": field.hint ? `hint-${field.name}` : null,
        })),
        field.hint ? h("small", { id: `hint-${field.name}` }, field.hint) : null,
      ]),
      problem,
      h("div", { class: "buttons" },
        h("button", { type: "submit", class: dangerous ? "dangerous" : "primary" }, yes),
        h("button", { type: "button", onclick: () => dialog.close() }, fields.some((field) => field.readonly) ? "Close" : "Cancel")));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
    let values = null;

    async function submit(event) {
      event.preventDefault();
      const given = Object.fromEntries(new FormData(form));
      form.querySelector("button[type=submit]").disabled = true;
      try {
        await work?.(given);
        values = given;
        dialog.close();
      } catch (error) {
        problem.textContent = error.message;
        form.querySelector("button[type=submit]").disabled = false;
      }
    }

    dialog.addEventListener("close", () => { dialog.remove(); resolve(values); });
    document.body.append(dialog);
    dialog.showModal();
    form.querySelector("input")?.select();
  });
}

let fading = 0;

/** Show the result of an action, also for screen readers. */
export function say(text) {
  const where = document.getElementById("said");
  where.textContent = text;
  where.classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => where.classList.remove("shown"), 5000);
}
