"use strict";
// Signing in and adding by passkey: a form's script asks the server for options, the device signs, and the browser
// sends the form with the result. Without this script, or in a browser without passkeys, the forms stay hidden.

const CAN_USE_PASSKEYS = Boolean(window.PublicKeyCredential && PublicKeyCredential.parseCreationOptionsFromJSON);

async function askDevice(form) {
  const answer = await fetch(form.dataset.passkey, { method: "POST" });
  if (!answer.ok) { throw new Error("no options"); }
  const options = await answer.json();
  if (form.dataset.kind === "create") {
    return navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options) });
  }
  return navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options) });
}

function usePasskeys(form) {
  const problem = form.querySelector("[role=alert]"), button = form.querySelector("button");
  form.previousElementSibling.remove();
  form.hidden = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.textContent = "";
    button.disabled = true;
    try {
      form.elements.credential.value = JSON.stringify(await askDevice(form));
      form.submit();
    } catch {
      problem.textContent = form.dataset.failed;
    }
    button.disabled = false;
  });
}

document.addEventListener("DOMContentLoaded", () => {
  if (CAN_USE_PASSKEYS) { document.querySelectorAll("form[data-passkey]").forEach(usePasskeys); }
});
