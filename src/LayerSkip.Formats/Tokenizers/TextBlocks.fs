namespace LayerSkip

open System
open System.IO

/// Long texts, a block at a time. A file of gigabytes is never in memory, and a word is cut only where a million
/// characters have neither space nor line end.
[<RequireQualifiedAccess>]
module TextBlocks =
    // Characters: of a block, and of a text that nowhere has a good place to be cut.
    let private usual, most = 1 <<< 18, 1 <<< 20

    /// Whether a special token begins or ends at a place, or has it inside.
    let private touches (specials: string list) (text: string) (cut: int) =
        let begins (special: string) start =
            start >= 0 && String.CompareOrdinal(text, start, special, 0, special.Length) = 0

        specials
        |> List.exists (fun special -> List.exists (begins special) [ cut - special.Length .. cut ])

    /// Where a text may be cut so that its parts have the words of the whole, the best places first. Words of GPT-2 and of
    /// those after it never go on to a space, nor beyond a line's end; those of GPT-2 not even to it.
    let private places: (string -> int -> bool) list = [
        (fun text cut -> text[cut] = ' ' && not (Char.IsWhiteSpace text[cut - 1]))
        (fun text cut ->
            cut > 1
            && text[cut - 1] = '\n'
            && not (Char.IsWhiteSpace text[cut] || Char.IsWhiteSpace text[cut - 2]))
        (fun text cut -> text[cut] = '\n' && not (Char.IsWhiteSpace text[cut - 1]))
    ]

    /// Of a text without any: between two characters.
    let private anywhere (text: string) (cut: int) = not (Char.IsLowSurrogate text[cut])

    /// The last place where a text may be cut, or 0. A special token there must have its end in the text, to be seen.
    let private cutOf (specials: string list) (text: string) : int =
        let longest = specials |> List.map String.length |> List.fold max 1
        let usable = if text.Length < most then places else places @ [ anywhere ]

        let rec last isPlace cut =
            if cut < 1 then
                0
            elif isPlace text cut && not (touches specials text cut) then
                cut
            else
                last isPlace (cut - 1)

        usable
        |> Seq.map (fun isPlace -> last isPlace (text.Length - longest))
        |> Seq.tryFind (fun cut -> cut > 0)
        |> Option.defaultValue 0

    /// Blocks of about `size` characters.
    let internal ofReader (size: int) (specials: string list) (reader: TextReader) : seq<string> =
        seq {
            let mutable held = ""
            let mutable isOver = false

            while not isOver do
                let buffer = Array.zeroCreate<char>(max size held.Length)
                let count = reader.ReadBlock(buffer, 0, buffer.Length)
                let text = String.Concat(held, ReadOnlySpan(buffer, 0, count))
                isOver <- count < buffer.Length
                let cut = if isOver then text.Length else cutOf specials text
                held <- text[cut..]

                if cut > 0 then
                    text[.. cut - 1]
        }

    /// A text in blocks whose words and special tokens are those of the whole text.
    let ofText (specials: string list) (text: string) : seq<string> =
        if text.Length <= usual then
            Seq.singleton text
        else
            seq {
                use reader = new StringReader(text)
                yield! ofReader usual specials reader
            }

    /// The text of a UTF-8 file of any length, in such blocks. What is wrong with the file is thrown as
    /// `LayerSkipException` when it is found.
    let ofFile (specials: string list) (path: string) : seq<string> =
        seq {
            use reader = TextFile.openRead path
            yield! ofReader usual specials reader
        }
