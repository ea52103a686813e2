module LayerSkip.Tests.FileSupport

open System
open System.IO
open System.Runtime.InteropServices
open System.Threading
open Expecto
open LayerSkip

/// A new folder under the system's temporary one, gone after `body`.
let withFolder (body: string -> 'T) : 'T =
    let folder = Directory.CreateTempSubdirectory "layerskip-"

    try
        body folder.FullName
    finally
        folder.Delete true

/// A file of these bytes, gone after `body`.
let withBytes (bytes: byte[]) (body: string -> 'T) : 'T =
    withFolder (fun folder ->
        let path = Path.Combine(folder, "model.bin")
        File.WriteAllBytes(path, bytes)
        body path)

/// The messages of an error; fails on a success, which is closed.
let messages (result: Result<'T, LayerSkipError list>) : string list =
    match result with
    | Error faults -> List.map LayerSkipError.message faults
    | Ok opened ->
        (match box opened with
         | :? IDisposable as file -> file.Dispose()
         | _ -> ())

        failtest "expected an error"

/// One message, on one line, that holds all of `parts`.
let expectFault (parts: string list) (found: string list) =
    let holds (message: string) = parts |> List.forall message.Contains && not (message.Contains '\n')

    Expect.exists found holds $"%A{found} has a line with %A{parts}"

/// True for an error, false for a success, which is closed; an exception goes through.
let isFault (result: Result<'T, LayerSkipError list>) =
    match result with
    | Error faults ->
        faults |> List.iter (LayerSkipError.message >> ignore)
        not faults.IsEmpty
    | Ok opened ->
        (match box opened with
         | :? IDisposable as file -> file.Dispose()
         | _ -> ())

        false

[<DllImport("libc")>]
extern int private setfsuid(uint32 user)

/// What is found where root's rights are not those of the file system's user. Libraries load while they may.
let asNobody (work: unit -> 'T) : 'T =
    let mutable found = None

    let thread =
        Thread(fun () ->
            setfsuid 65534u |> ignore
            found <- Some(work ()))

    thread.Start()
    thread.Join()
    found.Value
