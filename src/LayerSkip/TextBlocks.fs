namespace LayerSkip

open System
open System.IO
open System.Text

/// Text files for training, a block at a time.
[<RequireQualifiedAccess>]
module TextBlocks =
    // Characters: of a block, and without any white space, which no text is.
    let private usual, most = 1 <<< 18, 1 <<< 24

    let private isInside (specials: string list) (text: string) (cut: int) =
        let begins (special: string) start =
            start >= 0 && String.CompareOrdinal(text, start, special, 0, special.Length) = 0

        specials
        |> List.exists (fun special -> List.exists (begins special) [ cut + 1 - special.Length .. cut - 1 ])

    /// Where a text may be cut, or 0: GPT-2's words never go on from anything else to white space. A special token that
    /// begins before the cut must have its end in the text, to be seen.
    let private cutOf (specials: string list) (text: string) : int =
        let longest = specials |> List.map String.length |> List.fold max 1

        let isGood cut =
            (text[cut] = ' ' || text[cut] = '\n')
            && not (Char.IsWhiteSpace text[cut - 1])
            && not (isInside specials text cut)

        let rec last cut =
            if cut < 1 then 0
            elif isGood cut then cut
            else last (cut - 1)

        last (text.Length - max 1 (longest - 1))

    let private read (path: string) (reader: TextReader) (count: int) : string =
        let fault why = raise (LayerSkipException [ LayerSkipError.BadFile(path, why) ])
        let buffer = Array.zeroCreate<char> count

        try
            String(buffer, 0, reader.ReadBlock(buffer, 0, count))
        with
        | :? DecoderFallbackException -> fault "is not UTF-8 text; convert it first"
        | e when (MappedFile.fault e).IsSome -> fault (MappedFile.fault e).Value

    /// Blocks of about `size` characters, in which words and special tokens are those of the whole text.
    let internal ofReader
        (size: int)
        (specials: string list)
        (path: string)
        (reader: TextReader)
        : seq<string> =
        seq {
            let mutable held = ""
            let mutable isOver = false

            while not isOver do
                let wanted = max size held.Length
                let block = read path reader wanted
                let text = held + block
                isOver <- block.Length < wanted

                if text.Length > most then
                    let fault = $"has no space in {most >>> 20} Mi characters; give a text file"
                    raise (LayerSkipException [ LayerSkipError.BadFile(path, fault) ])

                let cut = if isOver then text.Length else cutOf specials text
                held <- text[cut..]

                if cut > 0 then
                    text[.. cut - 1]
        }

    /// Whether a text file is there to be read.
    let check (path: string) : Result<unit, LayerSkipError list> =
        if Directory.Exists path then
            Error [ LayerSkipError.BadFile(path, "is a folder; give a text file") ]
        elif not (File.Exists path) then
            Error [ LayerSkipError.NotFound(path, "give a UTF-8 text file") ]
        else
            Ok()

    /// The text of a UTF-8 file of any length, in blocks whose words and special tokens are those of the whole text. What is
    /// wrong with the file is thrown as `LayerSkipException` when it is found.
    let ofFile (specials: string list) (path: string) : seq<string> =
        seq {
            check path |> Check.getOrRaise

            use file =
                try
                    new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite)
                with e when (MappedFile.fault e).IsSome ->
                    raise (LayerSkipException [ LayerSkipError.BadFile(path, (MappedFile.fault e).Value) ])

            // Knows the byte order mark of UTF-8, and no other.
            use reader = new StreamReader(file, UTF8Encoding(true, true), false)
            yield! ofReader usual specials path reader
        }
