module LayerSkip.Tests.Support

open System.IO
open Expecto

let rec private findRoot (folder: string) =
    if File.Exists(Path.Combine(folder, "LayerSkip.FSharp.sln")) then
        folder
    else
        findRoot (Path.GetDirectoryName folder)

/// The root of the checkout.
let root = findRoot System.AppContext.BaseDirectory

/// What lies beside the checkout, which a fresh clone lacks.
let private shared = Path.GetFullPath(Path.Combine(root, "..", "shared"))

let private inShared (folder: string) (parts: string list) =
    Path.Combine(Array.ofList (shared :: folder :: parts))

let private testOver (folder: string) (name: string) (parts: string list) (body: string -> unit) =
    let path = inShared folder parts

    testCase name (fun () ->
        if Path.Exists path then
            body path
        else
            skiptest $"""no ../shared/{folder}/{String.concat "/" parts}""")

/// The path of reference data.
let sharedPath (parts: string list) = inShared "data" parts

/// A test over `../shared/data`; says `skipped` where a file that it reads is not there.
let sharedTest (name: string) (path: string list) (body: string -> unit) = testOver "data" name path body

/// The path of an input that went wrong once.
let casePath (parts: string list) = inShared "cases" parts

/// A test over `../shared/cases`; says `skipped` where they are not there.
let caseTest (name: string) (path: string list) (body: string -> unit) = testOver "cases" name path body
