namespace LayerSkip

open System.Collections.Generic

/// How lessons become ids.
[<NoEquality; NoComparison>]
type internal LessonIds = {
    Tokenizer: Tokenizer
    /// Put before a text that does not begin with them itself.
    Opening: int[]
    /// Put after a text that does not end with it itself.
    Closing: int option
    /// Whether special tokens that stand in the texts are read as such; else they are characters.
    ParsesSpecial: bool
    /// The samples of a conversation, as entries.
    Chat: ChatLesson -> Result<int[] list, LayerSkipError list>
}

/// Entries of texts, as a model's prompts are encoded; those that are only read as complements.
[<RequireQualifiedAccess>]
module internal LessonIds =
    /// The texts that are cut out of others before these are split into words.
    let private specials (tokenizer: Tokenizer) : string list = [
        for entry in tokenizer.Added do
            if entry.Value.Content <> "" then
                entry.Value.Content
    ]

    /// Ids of a text of any length, whose beginning stands at `start`.
    let private encode (ids: LessonIds) (start: Place) (text: string) : int[] =
        let result = List<int>()

        for number, block in Seq.indexed (TextBlocks.ofText (specials ids.Tokenizer) text) do
            let place = if number = 0 then start else Place.Continuing
            result.AddRange(ids.Tokenizer.Encode(place, false, ids.ParsesSpecial, block).Ids)

        result.ToArray()

    let private opened (ids: LessonIds) (text: int[]) : int[] =
        if Array.truncate ids.Opening.Length text = ids.Opening then
            text
        else
            Array.append ids.Opening text

    let private closed (ids: LessonIds) (last: int option) (text: int[]) : int[] =
        if last = ids.Closing then
            text
        else
            Array.append text (Option.toArray ids.Closing)

    /// Where a response goes on: after a special token of the prompt's a text begins anew.
    let private afterPrompt (ids: LessonIds) (prompt: int[]) : Place =
        match Array.tryLast prompt |> Option.bind ids.Tokenizer.Added.TryFind with
        | _ when prompt.Length = 0 -> Place.First
        | Some token when ids.ParsesSpecial || not token.Special -> Place.Later
        | _ -> Place.Continuing

    let private pair (ids: LessonIds) (prompt: string) (response: string) : int[] =
        let read = encode ids Place.First prompt
        let learned = encode ids (afterPrompt ids read) response

        Array.append (opened ids read |> Array.map (~~~)) (closed ids (Array.tryLast learned) learned)

    /// A file's texts as entries: ids as the model reads and learns them, text after text. A long text comes in
    /// parts, of which the first begins it.
    let ofFile (ids: LessonIds) (path: string) : seq<TextEntries> =
        seq {
            let mutable last = None

            for part in Texts.parts (specials ids.Tokenizer) path do
                match part.Lesson with
                | Lesson.Chat lesson ->
                    let samples =
                        ids.Chat lesson
                        |> Result.mapError (fun faults -> [
                            LayerSkipError.BadFile(path, $"{lesson.Place}: {LayerSkipError.summary faults}")
                        ])
                        |> Check.getOrRaise

                    for number, entries in List.indexed samples do
                        { Begins = true; Entries = entries; Sample = number + 1 }
                | Lesson.Pair(prompt, response) -> {
                    Begins = true
                    Entries = pair ids prompt response
                    Sample = 0
                  }
                | Lesson.Text text ->
                    let entries =
                        let found = encode ids (if part.Begins then Place.First else Place.Continuing) text
                        last <- Array.tryLast found |> Option.orElse (if part.Begins then None else last)
                        let found = if part.Begins then opened ids found else found
                        if part.Ends then closed ids last found else found

                    { Begins = part.Begins; Entries = entries; Sample = 0 }
        }
