namespace LayerSkip

open System.IO
open System.Text.Json

/// The objects of a file as questions; those that are of another form are counted, and told of.
type internal ChoiceFile = {
    Questions: ChoiceQuestion[]
    /// Places of objects that are none: "element 83".
    Unread: string list
    /// The file of labels beside it, where there is one.
    Labels: string list
}

/// Files of questions: JSON objects in one array, or one a line.
[<RequireQualifiedAccess>]
module internal ChoiceFile =
    let private hint = "give a .json or .jsonl file of questions"

    let private linesOf (bytes: byte[]) : string list =
        System.Text.Encoding.UTF8.GetString(bytes).Split '\n'
        |> Array.map _.Trim('\r', '\uFEFF')
        |> List.ofArray

    let private labelsBeside (path: string) = Path.ChangeExtension(path, null) + "-labels.lst"

    /// The labels of a .jsonl file, where a file of them lies beside it: a whole number a line.
    let private labelsOf (path: string) : Result<int[] option, LayerSkipError list> =
        let labels = labelsBeside path

        SourceFile.tryReadAll labels
        |> Result.bind (fun bytes ->
            match bytes |> Option.map (linesOf >> List.filter ((<>) "") >> List.map Number.tryWhole) with
            | None -> Ok None
            | Some numbers ->
                match Check.every numbers with
                | Some numbers -> Ok(Some(Array.ofList numbers))
                | None -> Check.bad labels "must hold a whole number on each line")

    /// The questions of a file that is of one of `forms`. Errors: a file that cannot be read, or in which nothing is of
    /// their forms; labels for another number of questions.
    let read (forms: ChoiceForm list) (path: string) : Result<ChoiceFile, LayerSkipError list> =
        Check.both (Records.values path hint) (labelsOf path)
        |> Result.bind (fun (values, labels) ->
            let tryRead index (root: JsonElement) =
                if root.ValueKind = JsonValueKind.Object then
                    forms
                    |> List.tryPick (fun form ->
                        form.TryRead (Option.bind (Array.tryItem index) labels) root)
                else
                    None

            let found = values |> List.mapi (fun index (place, root) -> place, tryRead index root)
            let questions = found |> List.choose snd

            match labels with
            | Some labels when labels.Length <> found.Length ->
                Check.bad path $"has {found.Length} questions, and its -labels.lst {labels.Length} labels"
            | _ when questions.IsEmpty ->
                let wanted = forms |> List.map _.Wanted |> String.concat ", or "
                Check.bad path $"holds no question of this task's form: objects with {wanted}"
            | _ ->
                Ok {
                    Questions = Array.ofList questions
                    Unread = found |> List.filter (snd >> Option.isNone) |> List.map fst
                    Labels = labels |> Option.map (fun _ -> labelsBeside path) |> Option.toList
                })
