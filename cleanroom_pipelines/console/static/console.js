"use strict";
// Dates in the reader's zone, and files dropped onto their field. Pages work without this script.

function showDates(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (!Number.isNaN(at.valueOf())) {
      time.title = time.dateTime;
      time.textContent = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
    }
  }
}

function acceptDrops(root) {
  for (const area of root.querySelectorAll("[data-drop]")) {
    const input = area.querySelector("input[type=file]");
    for (const name of ["dragenter", "dragover"]) {
      area.addEventListener(name, (event) => { event.preventDefault(); area.classList.add("over"); });
    }
    for (const name of ["dragleave", "drop"]) {
      area.addEventListener(name, () => area.classList.remove("over"));
    }
    area.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files.length) {
        input.files = event.dataTransfer.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
      }
    });
  }
}

// Shows what a slider is set to: <output for="id"> gets the text of the matching <option> of its list.
function followSliders(root) {
  for (const output of root.querySelectorAll("output[data-slider]")) {
    const slider = document.getElementById(output.dataset.slider);
    const texts = slider ? Array.from(document.querySelectorAll("#" + slider.id + "-texts li")) : [];
    const show = () => { output.textContent = texts[slider.value] ? texts[slider.value].textContent : slider.value; };
    if (slider) { for (const name of ["input", "slid"]) { slider.addEventListener(name, show); } show(); }
  }
}

// A slider and the number field beside it, which is the one that is sent.
function joinNumbers(root) {
  for (const slider of root.querySelectorAll("input[type=range][data-number]")) {
    const number = document.getElementById(slider.dataset.number);
    const say = () => slider.dispatchEvent(new Event("slid"));
    slider.addEventListener("input", () => { number.value = slider.value; });
    number.addEventListener("input", () => { slider.value = number.value; say(); });
  }
}

function start(root) { joinNumbers(root); showDates(root); acceptDrops(root); followSliders(root); }

document.documentElement.classList.add("script");
document.addEventListener("DOMContentLoaded", () => start(document));
document.addEventListener("htmx:afterSettle", (event) => start(event.target));
