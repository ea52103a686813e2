namespace LayerSkip

open System
open System.Text

/// What perplexity reads at once: the first id is only read, every other one is predicted too, from those before it.
type internal TextItem = {
    Ids: int[]
    /// Whether it begins its text: the space that some tokenizers put there is none of the text's.
    Begins: bool
    /// Whether more of its text was cut off.
    IsCut: bool
}

/// Texts of files as items.
[<RequireQualifiedAccess>]
module internal TextItems =
    // Windows are as short as most users compare them at; a document is what a model may read at once.
    let private defaultWindow = 512

    /// The most tokens that an item reads.
    let window (context: int) (options: TextOptions) : int =
        let wanted =
            match options.Window with
            | Some window -> window
            | None when options.Documents -> context
            | None -> defaultWindow

        min wanted context

    /// Consecutive windows of a text: each reads `window` tokens and predicts the token after each of them. What is left at
    /// the end is a shorter one.
    let ofWindows (window: int) (ids: int[]) : TextItem[] = [|
        for start in 0..window .. ids.Length - 2 do
            {
                Ids = Array.sub ids start (min (window + 1) (ids.Length - start))
                Begins = (start = 0)
                IsCut = false
            }
    |]

    /// A text on its own, cut to `window` tokens, where it has two.
    let ofDocument (window: int) (ids: int[]) : TextItem option =
        if ids.Length < 2 || window < 2 then
            None
        else
            Some { Ids = Array.truncate window ids; Begins = true; IsCut = ids.Length > window }

    /// Bytes of text that the predicted tokens of an item stand for; special tokens stand for none.
    let bytes (tokenizer: Tokenizer) (item: TextItem) : int =
        let count (ids: int[]) =
            let text =
                if item.Begins then
                    Tokenizer.decode false tokenizer ids
                else
                    Tokenizer.decodeContinuing false tokenizer ids

            Encoding.UTF8.GetByteCount text

        count item.Ids - count (Array.truncate 1 item.Ids)

    let private first (most: int option) (text: string) =
        match most with
        | Some most when most < text.Length -> text[.. most - 1]
        | _ -> text

    let private windowsOf encode window (options: TextOptions) (path: string) : TextItem[] =
        TextFile.readAll 64 path
        |> first options.MaxChars
        |> fun text -> text.Replace(Texts.separator, "\n", StringComparison.Ordinal)
        |> encode
        |> ofWindows window

    let private documentsOf encode window (limit: int option) (path: string) : TextItem[] =
        let whole (lesson: Lesson) =
            match lesson with
            | Lesson.Chat chat ->
                Check.bad path $"{chat.Place} holds a conversation, which is no document; give \"text\""
                |> Check.getOrRaise
            | lesson -> lesson |> Lesson.texts |> String.concat ""

        Texts.read path
        |> Seq.choose (whole >> encode >> ofDocument window)
        |> fun items ->
            match limit with
            | Some most -> Seq.truncate most items
            | None -> items
        |> Array.ofSeq

    /// The items of a file, of documents at most `limit`. Errors: what is wrong with the file, one that holds no text.
    let ofFile
        (encode: string -> int[])
        (window: int)
        (options: TextOptions)
        (limit: int option)
        (path: string)
        : Result<TextItem[], LayerSkipError list> =
        Check.guard (fun () ->
            let items =
                if options.Documents then
                    documentsOf encode window limit path
                else
                    windowsOf encode window options path

            if items.Length = 0 then
                Check.bad path "holds no text of two tokens, of which one could be predicted"
            else
                Ok items)
