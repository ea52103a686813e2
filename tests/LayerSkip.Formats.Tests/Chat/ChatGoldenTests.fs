/// Templates against what Python's jinja2 makes of them (`jinja-reference.py`).
module LayerSkip.Tests.ChatGoldenTests

open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.ChatSupport

let private conversations = lazy [| for one in (json "conversations.json").EnumerateArray() -> one |]

/// Generated templates are rendered over those that are no template's own.
let private plain =
    lazy
        (conversations.Value
         |> Array.filter (fun one -> not (fst (one.TryGetProperty "templates"))))

let private check (cases: JsonElement) =
    let wrong = [
        for one in cases.EnumerateArray() do
            let text (name: string) =
                match one.TryGetProperty name with
                | true, value when value.ValueKind = JsonValueKind.String -> Some(value.GetString())
                | _ -> None

            let source, from =
                match text "file" with
                | Some file -> read file, conversations.Value
                | None -> (text "template").Value, plain.Value

            let variables = from[one.GetProperty("conversation").GetInt32()].GetProperty "variables"
            let name = (text "name").Value

            match render source variables, text "expected" with
            | Ok made, Some expected when made.Text <> expected ->
                $"{name}:\n{source}\nmade\n{JsonSerializer.Serialize made.Text}\nnot\n{JsonSerializer.Serialize expected}"
            | Ok made, None -> $"{name}:\n{source}\nis refused, and made {JsonSerializer.Serialize made.Text}"
            | Error why, Some expected ->
                $"{name}:\n{source}\nwas refused: {why}; it makes {JsonSerializer.Serialize expected}"
            | _ -> ()
    ]

    let all = cases.GetArrayLength()
    Expect.isGreaterThan all 30 "cases"
    Expect.isEmpty
        wrong
        $"""{wrong.Length} of {all} differ: {wrong |> List.truncate 8 |> String.concat "\n\n"}"""

[<Tests>]
let tests =
    testList "chat golden" [
        testCase "templates of published models write what jinja2 writes" (fun () ->
            check (json "golden/published.json"))

        testCase "200 generated templates write what jinja2 writes" (fun () ->
            let cases = json "golden/generated.json"
            Expect.equal (cases.GetArrayLength()) 200 "templates"
            check cases)

        testCase "templates that may not be committed write what jinja2 writes" (fun () ->
            if File.Exists(Path.Combine(folder, "local", "golden.json")) then
                check (json "local/golden.json")
            else
                skiptest "no tests/LayerSkip.Formats.Tests/Chat/local")
    ]
