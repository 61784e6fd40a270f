// Starts reveal.js and makes each slide fit: first its figures shrink, then its text.
const HEIGHT = 720, SMALLEST_FIGURE = 300, SMALLEST_TEXT = 0.7;

function fit(slide) {
  if (!slide || slide.dataset.fitted) return;
  const images = [...slide.querySelectorAll("img")];
  const over = () => slide.scrollHeight - HEIGHT;
  slide.style.setProperty("--fit", 1);
  for (let size = 1; ; size = Math.round((size - 0.05) * 100) / 100) {
    slide.style.setProperty("--fit", size);
    for (const image of images) image.style.maxHeight = "";
    for (const image of images) {
      const room = image.offsetHeight - Math.max(0, over());
      if (over() > 0) image.style.maxHeight = `${Math.max(SMALLEST_FIGURE, room)}px`;
    }
    if (over() <= 0 || size <= SMALLEST_TEXT) break;
  }
  slide.dataset.fitted = "yes";
}

const ready = window.MathJax?.startup?.promise ??
  new Promise((done) => window.addEventListener("load", () =>
    (window.MathJax?.startup?.promise ?? Promise.resolve()).then(done)));

ready.then(() => Reveal.initialize({
  width: 1280, height: HEIGHT, margin: 0.02, center: false, hash: true,
  controls: true, progress: true, slideNumber: "c/t", transition: "none",
  plugins: [RevealNotes],
})).then(() => {
  Reveal.on("slidechanged", (event) => fit(event.currentSlide));
  fit(Reveal.getCurrentSlide());
  document.body.dataset.ready = "yes";
});
