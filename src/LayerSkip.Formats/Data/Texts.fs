namespace LayerSkip

open System
open System.IO
open System.Text

/// A lesson, or a part of a text that is long, in the order of the file.
type LessonPart = {
    Lesson: Lesson
    /// Whether it is the first of its text; only a text has several.
    Begins: bool
    /// Whether it is the last; that may have no text left.
    Ends: bool
}

/// Texts and pairs in files.
[<RequireQualifiedAccess>]
module Texts =
    /// What parts the texts of a plain file. What stands between two of them is one lesson; where nothing does, there
    /// is none.
    let separator = "<|endoftext|>"

    /// The texts between separators, without the white space around them.
    let private plain (specials: string list) (path: string) : seq<LessonPart> =
        let part text begins ends = { Lesson = Lesson.Text text; Begins = begins; Ends = ends }

        seq {
            // The latest of its text: what follows tells whether white space at its end is inside.
            let mutable held = ""
            let mutable begins = true

            for block in TextBlocks.ofFile (separator :: specials) path do
                let pieces = block.Split separator

                for number in 0 .. pieces.Length - 1 do
                    if number > 0 then
                        if held <> "" || not begins then
                            part (held.TrimEnd()) begins true

                        held <- ""
                        begins <- true
                    elif held <> "" then
                        part held begins false
                        begins <- false

                    held <-
                        if begins then
                            pieces[number].TrimStart()
                        else
                            pieces[number]

            if held <> "" || not begins then
                part (held.TrimEnd()) begins true
        }

    /// Whether a file name says that it holds JSON, of which each object is a lesson.
    let isJson (path: string) : bool =
        [ ".jsonl"; ".ndjson"; ".json" ]
        |> List.exists (fun ending -> path.EndsWith(ending, StringComparison.OrdinalIgnoreCase))

    /// Whether a file can be read at all.
    let check (path: string) : LayerSkipError list =
        match TextFile.check "a text, .jsonl or token file" path with
        | [] when PathKind.find path = PathKind.RegularFile && FileInfo(path).Length = 0L -> [
            LayerSkipError.BadFile(path, "is empty; there is nothing to learn from")
          ]
        | faults -> faults

    /// A file's lessons, as they are asked for, long texts of a plain file in parts whose words and `specials` are those of
    /// the whole text. Texts of nothing but white space are none. What is wrong with the file is thrown, as
    /// LayerSkipException.
    let parts (specials: string list) (path: string) : seq<LessonPart> =
        let isBlank (lesson: Lesson) =
            match lesson with
            // An empty answer is one: it ends at once.
            | Lesson.Chat _ -> false
            | lesson -> lesson |> Lesson.texts |> List.forall String.IsNullOrWhiteSpace

        if isJson path then
            JsonLessons.read path
            |> Seq.filter (isBlank >> not)
            |> Seq.map (fun lesson -> { Lesson = lesson; Begins = true; Ends = true })
        else
            plain specials path

    /// A file's lessons, each of them whole.
    let read (path: string) : seq<Lesson> =
        seq {
            let text = StringBuilder()

            for part in parts [] path do
                match part.Lesson with
                | Lesson.Pair _
                | Lesson.Chat _ -> part.Lesson
                | Lesson.Text more ->
                    text.Append more |> ignore

                    if part.Ends then
                        Lesson.Text(text.ToString())
                        text.Clear() |> ignore
        }
