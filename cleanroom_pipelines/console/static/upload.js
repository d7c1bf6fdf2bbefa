"use strict";
// Shows the progress of a form's files while they are sent. Without this script the browser sends the form itself.

function watchUpload(form) {
  const progress = form.querySelector(".progress"), bar = form.querySelector("progress");
  const button = form.querySelector("button");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const request = new XMLHttpRequest();
    request.upload.addEventListener("progress", (sent) => { if (sent.lengthComputable) { bar.value = (100 * sent.loaded) / sent.total; } });
    request.addEventListener("load", () => {
      if (request.responseURL !== form.action) { window.location.assign(request.responseURL); return; }
      const page = new DOMParser().parseFromString(request.responseText, "text/html");
      document.getElementById("main").replaceWith(document.adoptNode(page.getElementById("main")));
      start(document.getElementById("main"));
      startUploads(document.getElementById("main"));
      const wrong = document.querySelector("[aria-invalid]") || document.getElementById("main");
      wrong.focus();
    });
    request.addEventListener("error", () => {
      progress.querySelector("p").textContent = form.dataset.upload;
      button.disabled = false;
    });
    progress.hidden = false;
    button.disabled = true;
    request.open("POST", form.action);
    request.send(new FormData(form));
  });
}

function startUploads(root) { root.querySelectorAll("form[data-upload]").forEach(watchUpload); }

document.addEventListener("DOMContentLoaded", () => startUploads(document));
