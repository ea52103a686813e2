namespace LayerSkip

open System
open System.Buffers
open System.Text

/// What bytes are as text: UTF-8 (RFC 3629), with or without the byte order mark EF BB BF.
[<RequireQualifiedAccess>]
module internal Utf8Text =
    /// How many bytes at the end begin a character that more bytes could complete: 0 to 3.
    let unfinished (bytes: byte[]) : int =
        let begins count =
            let tail = ReadOnlySpan(bytes, bytes.Length - count, count)
            let mutable rune = Rune()
            let mutable consumed = 0
            Rune.DecodeFromUtf8(tail, &rune, &consumed) = OperationStatus.NeedMoreData

        [ 3; 2; 1 ]
        |> List.tryFind (fun count -> count <= bytes.Length && begins count)
        |> Option.defaultValue 0

    /// Of the UTF-8 byte order mark that a text may begin with: 3, or 0.
    let markLength (head: ReadOnlySpan<byte>) : int =
        if head.StartsWith(ReadOnlySpan [| 0xEFuy; 0xBBuy; 0xBFuy |]) then
            3
        else
            0

    /// The text of a whole file, without its byte order mark; what is no UTF-8 as U+FFFD.
    let decode (bytes: byte[]) : string =
        let mark = markLength (ReadOnlySpan bytes)
        Encoding.UTF8.GetString(bytes, mark, bytes.Length - mark)

    /// Whether a text begins with a byte order mark of UTF-16.
    let isUtf16 (head: ReadOnlySpan<byte>) : bool =
        head.StartsWith(ReadOnlySpan [| 0xFFuy; 0xFEuy |])
        || head.StartsWith(ReadOnlySpan [| 0xFEuy; 0xFFuy |])

    /// What a file is that begins so and is no UTF-8 text, and what to do.
    let notText (head: ReadOnlySpan<byte>) : string option =
        if isUtf16 head then
            Some "is UTF-16 or UTF-32 text; convert it to UTF-8 first, as with `iconv -t UTF-8`"
        elif head.Contains 0uy then
            Some "is no text: it holds NUL bytes, as UTF-16 and binary files do; convert it to UTF-8 first"
        else
            SourceFile.pointer (head.Slice(0, min head.Length 128))
