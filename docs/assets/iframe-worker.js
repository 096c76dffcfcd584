// A page that was opened from a folder may not start a Worker, but it may load scripts: the search's worker then runs
// in a hidden frame. The theme's worker asks whether its parent has an IFrameWorker.
if (location.protocol === "file:") {
  class IFrameWorker extends EventTarget {
    constructor(url) {
      super()
      this.onmessage = this.onerror = null
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.frame = frame

      const inside = frame.contentWindow
      inside.postMessage = data => this.tell(new MessageEvent("message", { data }))
      inside.importScripts = async (...urls) => {
        for (const each of urls) await this.load(each)
      }
      this.load(url).then(() => {
        const waiting = this.waiting
        this.waiting = null
        waiting.forEach(data => this.postMessage(data))
      }, () => this.tell(new ErrorEvent("error", { filename: String(url) })))
    }

    load(url) {
      return new Promise((loaded, failed) => {
        const script = this.frame.contentDocument.createElement("script")
        script.src = new URL(url, document.baseURI).href
        script.onload = loaded
        script.onerror = failed
        this.frame.contentDocument.body.append(script)
      })
    }

    tell(event) {
      this.dispatchEvent(event)
      this[`on${event.type}`]?.(event)
    }

    postMessage(data) {
      if (this.waiting) {
        this.waiting.push(data)
        return
      }
      // An event of the frame's own kind, as its handlers expect.
      const { MessageEvent: Message } = this.frame.contentWindow
      this.frame.contentWindow.dispatchEvent(new Message("message", { data }))
    }

    terminate() {
      this.frame.remove()
    }
  }

  window.IFrameWorker = IFrameWorker
  window.Worker = IFrameWorker
}
