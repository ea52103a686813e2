namespace LayerSkip

open System.Text

/// The text of ids that arrive one by one. Immutable: `TextStream.push` returns the stream after the id.
[<NoEquality; NoComparison>]
type TextStream = internal {
    /// The bytes that an id adds to the text.
    Bytes: int -> byte[]
    /// The next character, if it is a space, is the one that decoding drops.
    DropsSpace: bool
    /// The beginning of a character, 0 to 3 bytes.
    Pending: byte[]
} with

    /// The text that has become certain with an id, and the stream after it.
    member internal this.Push(id: int) : struct (string * TextStream) =
        let bytes = Array.append this.Pending (this.Bytes id)
        let certain = bytes.Length - Utf8Text.unfinished bytes
        let text = Encoding.UTF8.GetString(bytes, 0, certain)
        let drops = this.DropsSpace && text.StartsWith ' '

        struct ((if drops then text[1..] else text),
                { this with DropsSpace = this.DropsSpace && text = ""; Pending = bytes[certain..] })

    /// The pending bytes as U+FFFD.
    member internal this.Finish() : string = Encoding.UTF8.GetString this.Pending
